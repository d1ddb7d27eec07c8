"""Merchants' callers as they are in life: some ask twice, some give up after the first error."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from smartpay.payments.v1 import payment_pb2, payments_pb2
from smartpay.type.v1 import instrument_pb2, money_pb2
from smartpay_chassis.testing import as_merchant
from smartpay_sandbox.chaos_street import Street, account_id

P = payment_pb2.Payment
CALL_SECONDS = 6.0  # as long as a caller waits for one answer
RETRY_SECONDS = (0.02, 0.2)
TRIES_MAX = 400  # a caller that does not give up; at some kills a second, a minute and more
WAIT_SECONDS = 0.3  # between two looks of a caller who waits for an end
LOOKS_MAX = 60
SHARE_THAT_ASKS_TWICE = 0.2
# The service did not say what it thinks of the request, so it may be asked again.
AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class GivenUpError(Exception):
    """The caller goes away and never comes back."""


class RefusedError(Exception):
    """The service refuses what is asked; the text is its code."""


@dataclass
class Told:
    """What the callers of a run were told."""

    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Payments and refunds as JSON, by the key they were asked for with."""
    calls: Counter[str] = field(default_factory=Counter)

    def note(self, key: str, message: Any) -> None:  # noqa: ANN401 - a payment or a refund
        """Keeps an answer."""
        self.answers.setdefault(key, []).append(MessageToDict(message))


class Customer:
    """One caller with one order.

    Args:
        street: where to.
        told: where answers are kept.
        name: part of every key; the same name makes the same choices.
        gives_up: share of callers who give up after the first error.
    """

    def __init__(self, street: Street, told: Told, name: str, gives_up: float) -> None:
        self.street = street
        self.name = name
        self.chance = random.Random(name)
        self._told = told
        self._gives_up = self.chance.random() < gives_up
        self._asks_twice = self.chance.random() < SHARE_THAT_ASKS_TWICE

    # ---- what is asked of the service --------------------------------------------------------

    async def pay(
        self, minor: int, tokens: Sequence[tuple[str, str]], currency: str = "USD", **more: object
    ) -> payment_pb2.Payment:
        """Creates a payment.

        Args:
            minor: how much.
            tokens: the accounts by name, best first, each with its token.
            currency: of the amount.
            more: other fields of the request.
        """
        fields: dict[str, Any] = {
            "amount": money_pb2.Money(minor_units=minor, currency_code=currency),
            "instrument": instrument_pb2.Instrument(
                tokens=[
                    instrument_pb2.ProcessorToken(
                        processor_account_id=account_id(name), token=token
                    )
                    for name, token in tokens
                ],
                fingerprint=self.name,
            ),
            "capture_method": payment_pb2.CAPTURE_METHOD_AUTOMATIC,
            "customer_id": self.name,
            **more,
        }
        request = payments_pb2.CreatePaymentRequest(**fields)
        return await self._payment("CreatePayment", request, f"{self.name}-pay")

    async def confirm(self, payment: payment_pb2.Payment, account: str = "") -> payment_pb2.Payment:
        """Asks to charge, or to look at what the payer did."""
        request = payments_pb2.ConfirmPaymentRequest(
            payment_id=payment.payment_id,
            processor_account_id=account_id(account) if account else "",
        )
        return await self._payment("ConfirmPayment", request)

    async def capture(self, payment: payment_pb2.Payment, minor: int) -> payment_pb2.Payment:
        """Takes authorized money."""
        request = payments_pb2.CapturePaymentRequest(
            payment_id=payment.payment_id,
            amount=money_pb2.Money(minor_units=minor, currency_code=payment.amount.currency_code),
        )
        return await self._payment("CapturePayment", request, f"{self.name}-capture")

    async def cancel(self, payment: payment_pb2.Payment) -> payment_pb2.Payment:
        """Gives the payment up."""
        request = payments_pb2.CancelPaymentRequest(payment_id=payment.payment_id)
        return await self._payment("CancelPayment", request, f"{self.name}-cancel")

    async def refund(
        self, payment: payment_pb2.Payment, minor: int, number: int = 0
    ) -> payment_pb2.Refund:
        """Asks for money back."""
        request = payments_pb2.RefundPaymentRequest(
            payment_id=payment.payment_id,
            amount=money_pb2.Money(minor_units=minor, currency_code=payment.amount.currency_code),
        )
        refund: payment_pb2.Refund = await self._ask(
            "RefundPayment", request, f"{self.name}-refund-{number}"
        )
        return refund

    async def until(
        self, payment: payment_pb2.Payment, *statuses: P.Status.ValueType
    ) -> payment_pb2.Payment:
        """Looks again and again until the payment has one of the statuses, or has ended."""
        ends = {*statuses, P.STATUS_SUCCEEDED, P.STATUS_FAILED, P.STATUS_CANCELED}
        for _ in range(LOOKS_MAX):
            if payment.status in ends:
                return payment
            await asyncio.sleep(WAIT_SECONDS)
            payment = await self.confirm(payment)
        raise GivenUpError

    async def _payment(
        self, method: str, request: Message, key: str | None = None
    ) -> payment_pb2.Payment:
        payment: payment_pb2.Payment = await self._ask(method, request, key)
        return payment

    async def _ask(self, method: str, request: Message, key: str | None = None) -> Any:  # noqa: ANN401
        if not self._asks_twice or key is None:
            return await self._repeat(method, request, key)
        answers: tuple[Any, Any] = await asyncio.gather(
            self._repeat(method, request, key),
            self._repeat(method, request, key),
            return_exceptions=True,
        )
        for answer in answers:
            if not isinstance(answer, BaseException):
                return answer
        raise answers[0]

    async def _repeat(self, method: str, request: Message, key: str | None) -> Any:  # noqa: ANN401
        metadata = as_merchant(self.street.merchant, idempotency_key=key)
        for _ in range(TRIES_MAX):
            life = await self.street.alive()
            call = getattr(life.stub, method)
            try:
                response = await call(request, metadata=metadata, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                self._told.calls[f"{method} {error.code().name}"] += 1
                if error.code() not in AGAIN:
                    raise RefusedError(f"{error.code().name}: {error.details()}") from None
                if self._gives_up:
                    raise GivenUpError from None
                await asyncio.sleep(self.chance.uniform(*RETRY_SECONDS))
                continue
            self._told.calls[f"{method} OK"] += 1
            found = response.refund if method == "RefundPayment" else response.payment
            self._told.note(key or f"{method} {found.payment_id}", found)
            return found
        raise GivenUpError

    # ---- what the payer does -----------------------------------------------------------------

    async def act(self, url: str) -> bool:
        """Acts on a page of the bank or of Amazon; answers False when it is too late for that."""
        async with self.street.control.post(url) as page:
            return page.status == 200

    async def send(self, url: str, **changes: str) -> None:
        """Pays a solana: address out of one of a few wallets."""
        body = {"url": url, "payer": f"payer-{self.chance.randrange(6)}", **changes}
        async with self.street.control.post("/control/solana/pay", json=body) as answer:
            if answer.status != 201:
                raise RuntimeError(await answer.text())
