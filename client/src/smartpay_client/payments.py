"""Payments: beside the contract's calls, creating one as one call and waiting for its end."""

from __future__ import annotations

from typing import Unpack

from smartpay_client import _async_resources, _resources, limits
from smartpay_client import _methods as methods
from smartpay_client._contract import CreatePaymentRequest, Payment
from smartpay_client.arguments import as_instrument
from smartpay_client.errors import DeadlineExceeded, RateLimited, Unavailable
from smartpay_client.plan import Pause, Plan
from smartpay_client.session import CallOptions, MoneyOptions, Session
from smartpay_client.wire import spell


class NewPayment(CreatePaymentRequest, MoneyOptions):
    """What create takes: a payment's fields and the call's options."""


def _create(session: Session, wait: bool, order: NewPayment) -> Plan[Payment]:
    options = MoneyOptions()
    fields: dict[str, object] = {**order}
    if "deadline" in order:
        options["deadline"] = order["deadline"]
    if "idempotency_key" in order:
        options["idempotency_key"] = order["idempotency_key"]
    for name in options:
        del fields[name]
    if "instrument" in order:
        fields["instrument"] = as_instrument(order["instrument"])
    body = spell(CreatePaymentRequest, fields)
    ends = session.ends(methods.CREATE_PAYMENT, options)
    payment = yield from session.ask(Payment, methods.CREATE_PAYMENT, options, body=body, ends=ends)
    return (yield from _decided(session, payment, ends)) if wait else payment


def _wait(session: Session, payment_id: str, options: CallOptions) -> Plan[Payment]:
    ends = session.ends(methods.CREATE_PAYMENT, options)
    payment = yield from _get(session, payment_id, ends)
    return (yield from _decided(session, payment, ends))


def _get(session: Session, payment_id: str, ends: float) -> Plan[Payment]:
    path = {"payment_id": payment_id}
    return session.ask(Payment, methods.GET_PAYMENT, {}, path=path, ends=ends)


def _decided(session: Session, payment: Payment, ends: float) -> Plan[Payment]:
    pause = limits.SETTLE_SECONDS
    while payment.undecided and session.clock() + pause < ends:
        yield Pause(pause)
        try:
            payment = yield from _get(session, payment.payment_id, ends)
        except (Unavailable, DeadlineExceeded, RateLimited):
            # The payment exists: what is known of it is worth more than why we know no more.
            return payment
        pause = min(limits.SETTLE_SECONDS_MAX, pause * 1.5)
    return payment


class Payments(_resources.Payments):
    """Creates payments, moves them on, and tells what happened.

    Args:
        connection: carries the calls out.
    """

    def create(self, *, wait: bool = False, **order: Unpack[NewPayment]) -> Payment:
        """Creates a payment and tries to charge it; a decline is an answer, not an error.

        Args:
            wait: ask again until it is decided or the deadline comes; then it is answered as it
                stands, maybe still `undecided`.
            **order: see CreatePaymentRequest; `deadline` and `idempotency_key` besides.

        Raises:
            SmartPayError: with the idempotency key to repeat the call with.
        """
        return self._connection.run(_create(self._session, wait, order))

    def wait(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """Reads a payment until it is decided or the deadline comes; see create."""
        return self._connection.run(_wait(self._session, payment_id, options))


class AsyncPayments(_async_resources.AsyncPayments):
    """The same calls as `Payments`.

    Args:
        connection: carries the calls out.
    """

    async def create(self, *, wait: bool = False, **order: Unpack[NewPayment]) -> Payment:
        """As `Payments.create`."""
        return await self._connection.run(_create(self._session, wait, order))

    async def wait(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """As `Payments.wait`."""
        return await self._connection.run(_wait(self._session, payment_id, options))
