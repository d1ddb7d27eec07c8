"""What payments tell fraud: everything they know that a model or a rule may ask for."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.payments.v1 import payments_pb2
from smartpay.type.v1 import money_pb2
from smartpay_payments.adapters.advisors import FraudService, fingerprint
from smartpay_payments.messages import order_of


class Listening(fraud_pb2_grpc.FraudServiceServicer):
    """Fraud that allows everything and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[fraud_pb2.ScoreRequest] = []

    async def Score(self, request: Any, context: Any) -> fraud_pb2.ScoreResponse:
        self.asked.append(request)
        allowed = fraud_pb2.Assessment(verdict=fraud_pb2.Assessment.VERDICT_ALLOW)
        return fraud_pb2.ScoreResponse(assessment=allowed)


@pytest.fixture
async def fraud() -> AsyncIterator[tuple[Listening, FraudService]]:
    # A Unix socket's path may have some 100 characters, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="sp") as folder:
        address = f"unix:{Path(folder) / 'fraud'}"
        listening = Listening()  # type: ignore[abstract]
        server = grpc.aio.server()
        fraud_pb2_grpc.add_FraudServiceServicer_to_server(listening, server)
        server.add_insecure_port(address)
        await server.start()
        async with grpc.aio.insecure_channel(
            address, options=[("grpc.default_authority", "test")]
        ) as channel:
            yield listening, FraudService(channel, timeout_seconds=10)
        await server.stop(None)


async def test_fraud_is_told_where_what_and_from_which_country_is_bought(
    story: Any, fraud: tuple[Listening, FraudService]
) -> None:
    listening, service = fraud
    request = payments_pb2.CreatePaymentRequest(
        amount=money_pb2.Money(minor_units=1999, currency_code="USD"),
        customer_id="customer-7",
        device_id="device-7",
        ip_address="203.0.113.7",
        terminal_id="box-office",
        country="DE",
    )
    draft = story.draft("key")
    payment = replace(
        draft, order=replace(order_of(request), tokens=draft.order.tokens), merchant_category="7922"
    )
    opinion = await service.assess(payment)
    assert opinion is not None
    assert listening.asked == [
        fraud_pb2.ScoreRequest(
            transaction_id=payment.payment_id,
            amount=request.amount,
            customer_id="customer-7",
            instrument_fingerprint=fingerprint(payment.order),
            device_id="device-7",
            ip_address="203.0.113.7",
            terminal_id="box-office",
            merchant_category="7922",
            country="DE",
        )
    ]


async def test_fraud_is_told_nothing_that_nobody_said(
    story: Any, fraud: tuple[Listening, FraudService]
) -> None:
    listening, service = fraud
    await service.assess(story.draft("key"))
    (asked,) = listening.asked
    assert (asked.terminal_id, asked.merchant_category, asked.country) == ("", "", "")
