"""Decisions by a learner elsewhere, and by ours the moment it fails."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from smartpay.router.v1 import router_pb2
from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay.type.v1.instrument_pb2 import Instrument, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import DEMO_ACCOUNTS, as_merchant
from smartpay_router.adapters.estimates_wire import asked
from smartpay_router.adapters.sagemaker_policy import SagemakerPolicy
from smartpay_router.domain.context import CHARGE_SCHEMA
from smartpay_router.joining import Brain

FIRST, SECOND = DEMO_ACCOUNTS
CHARGE = router_pb2.DecideRequest(
    amount=Money(minor_units=2500, currency_code="USD"),
    instrument=Instrument(
        tokens=[
            ProcessorToken(processor_account_id=each, token="pm_card") for each in DEMO_ACCOUNTS
        ]
    ),
)


class Elsewhere:
    """An endpoint that knows the second account to be far better; until it is gone."""

    name = "routing-endpoint"

    def __init__(self) -> None:
        self.gone = False
        self.widths: list[int] = []

    async def invoke(self, body: bytes, version: str) -> bytes:
        await asyncio.sleep(0)
        if self.gone:
            raise ConnectionError
        question = asked(body)
        self.widths.append(len(question.values))
        success = [0.95 if arm.account == SECOND else 0.40 for arm in question.arms]
        told = {"success": success, "width": [0.01] * len(success), "outcomes": [9] * len(success)}
        return json.dumps(told).encode()


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def remote(brain: Brain, elsewhere: Elsewhere) -> SagemakerPolicy:
    return SagemakerPolicy(brain.learner, elsewhere)


async def test_the_endpoint_is_followed_while_it_answers_and_ours_when_it_is_gone(
    channel: grpc.aio.Channel, elsewhere: Elsewhere
) -> None:
    router = RouterServiceStub(channel)
    there = (await router.Decide(CHARGE, metadata=as_merchant())).decision
    assert [place.processor_account_id for place in there.ranking] == [SECOND, FIRST]
    assert [place.expected_success for place in there.ranking] == [0.95, 0.40]
    assert elsewhere.widths == [len(CHARGE_SCHEMA.features)]

    elsewhere.gone = True
    here = (await router.Decide(CHARGE, metadata=as_merchant())).decision
    # Ours knows nothing of either, so the cheaper one leads.
    assert [place.processor_account_id for place in here.ranking] == [FIRST, SECOND]
    assert here.ranking[0].expected_success == here.ranking[1].expected_success
