"""Payments: create, look, list, capture, cancel, confirm, refund."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Unpack

from smartpay_client import _methods as methods
from smartpay_client import limits
from smartpay_client._contract import (
    CreatePaymentRequest,
    Instrument,
    ListPaymentsResponse,
    Money,
    Payment,
    PaymentStatus,
    ProcessorToken,
    Refund,
    RefundReason,
)
from smartpay_client.async_connection import AsyncConnection
from smartpay_client.connection import Connection
from smartpay_client.errors import DeadlineExceeded, RateLimited, Unavailable
from smartpay_client.method import Method
from smartpay_client.plan import Page, Pause, Plan
from smartpay_client.session import CallOptions, MoneyOptions, Session
from smartpay_client.wire import encode, spell


class NewPayment(CreatePaymentRequest, MoneyOptions):
    """What create takes: a payment's fields and the call's options."""


def as_instrument(value: Instrument | Mapping[str, str]) -> Instrument:
    """Takes an instrument in its short form as well: token by processor account."""
    if isinstance(value, Instrument):
        return value
    return Instrument(tuple(ProcessorToken(account, token) for account, token in value.items()))


class PaymentPlans:
    """What the calls do, whoever waits for them.

    Args:
        session: of the client.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, wait: bool, order: NewPayment) -> Plan[Payment]:
        """Creates a payment and, if asked to, waits until it is decided."""
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
        ends = self._session.ends(methods.CREATE_PAYMENT, options)
        payment = yield from self._session.ask(
            Payment, methods.CREATE_PAYMENT, options, body=body, ends=ends
        )
        return (yield from self._decided(payment, ends)) if wait else payment

    def get(self, payment_id: str, options: CallOptions) -> Plan[Payment]:
        """Reads one payment."""
        path = {"payment_id": payment_id}
        return self._session.ask(Payment, methods.GET_PAYMENT, options, path=path)

    def wait(self, payment_id: str, options: CallOptions) -> Plan[Payment]:
        """Reads a payment until it is decided."""
        ends = self._session.ends(methods.CREATE_PAYMENT, options)
        payment = yield from self._get_by(ends, payment_id)
        return (yield from self._decided(payment, ends))

    def page(
        self, status: PaymentStatus | str | None, page_size: int, options: CallOptions
    ) -> Callable[[str], Plan[Page[Payment]]]:
        """Answers how to read one page."""
        query = {"pageSize": str(page_size)}
        if status is not None:
            query["status"] = PaymentStatus(status).wire

        def read(token: str) -> Plan[Page[Payment]]:
            answer = yield from self._session.ask(
                ListPaymentsResponse,
                methods.LIST_PAYMENTS,
                options,
                query={**query, "pageToken": token},
            )
            return Page(answer.payments, answer.next_page_token)

        return read

    def capture(self, payment_id: str, amount: Money, options: MoneyOptions) -> Plan[Payment]:
        """Takes authorized money."""
        return self._act(methods.CAPTURE_PAYMENT, payment_id, options, {"amount": encode(amount)})

    def cancel(self, payment_id: str, options: MoneyOptions) -> Plan[Payment]:
        """Gives a payment up."""
        return self._act(methods.CANCEL_PAYMENT, payment_id, options, {})

    def confirm(self, payment_id: str, options: CallOptions) -> Plan[Payment]:
        """Looks again after the payer acted."""
        return self._act(methods.CONFIRM_PAYMENT, payment_id, options, {})

    def refund(
        self,
        payment_id: str,
        amount: Money,
        reason: RefundReason | str | None,
        options: MoneyOptions,
    ) -> Plan[Refund]:
        """Gives money back."""
        body = {"amount": encode(amount)}
        if reason is not None:
            body["reason"] = RefundReason(reason).wire
        path = {"payment_id": payment_id}
        return self._session.ask(Refund, methods.REFUND_PAYMENT, options, path=path, body=body)

    def _get_by(self, ends: float, payment_id: str) -> Plan[Payment]:
        path = {"payment_id": payment_id}
        return self._session.ask(Payment, methods.GET_PAYMENT, {}, path=path, ends=ends)

    def _act(
        self, method: Method, payment_id: str, options: CallOptions, body: Mapping[str, object]
    ) -> Plan[Payment]:
        path = {"payment_id": payment_id}
        return self._session.ask(Payment, method, options, path=path, body=body)

    def _decided(self, payment: Payment, ends: float) -> Plan[Payment]:
        pause = limits.SETTLE_SECONDS
        while payment.undecided and self._session.clock() + pause < ends:
            yield Pause(pause)
            try:
                payment = yield from self._get_by(ends, payment.payment_id)
            except (Unavailable, DeadlineExceeded, RateLimited):
                # The payment exists: what is known of it is worth more than why we know no more.
                return payment
            pause = min(limits.SETTLE_SECONDS_MAX, pause * 1.5)
        return payment


class Payments:
    """`client.payments`.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plans = PaymentPlans(connection.session)

    def create(self, *, wait: bool = False, **order: Unpack[NewPayment]) -> Payment:
        """Creates a payment and tries to charge it; a decline is an answer, not an error.

        Args:
            wait: ask again until it is decided or the deadline comes; then it is answered as it
                stands, maybe still `undecided`.
            **order: see CreatePaymentRequest; `deadline` and `idempotency_key` besides.

        Raises:
            SmartPayError: with the idempotency key to repeat the call with.
        """
        return self._connection.run(self._plans.create(wait, order))

    def get(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """Reads a payment with its attempts, ledger, refunds and reward."""
        return self._connection.run(self._plans.get(payment_id, options))

    def wait(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """Reads a payment until it is decided or the deadline comes; see create."""
        return self._connection.run(self._plans.wait(payment_id, options))

    def list(
        self,
        *,
        status: PaymentStatus | str | None = None,
        page_size: int = limits.PAGE_SIZE,
        **options: Unpack[CallOptions],
    ) -> Iterator[Payment]:
        """Reads all payments, newest first, page by page as they are used.

        Args:
            status: only these.
            page_size: payments per call.
            **options: the deadline is each page's.
        """
        return self._connection.pages(self._plans.page(status, page_size, options))

    def capture(self, payment_id: str, amount: Money, **options: Unpack[MoneyOptions]) -> Payment:
        """Takes authorized money, once; what is left is released."""
        return self._connection.run(self._plans.capture(payment_id, amount, options))

    def cancel(self, payment_id: str, **options: Unpack[MoneyOptions]) -> Payment:
        """Cancels a payment that is authorized or waits for the payer."""
        return self._connection.run(self._plans.cancel(payment_id, options))

    def confirm(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """Moves a payment on after the payer did what next_action asked for."""
        return self._connection.run(self._plans.confirm(payment_id, options))

    def refund(
        self,
        payment_id: str,
        amount: Money,
        *,
        reason: RefundReason | str | None = None,
        **options: Unpack[MoneyOptions],
    ) -> Refund:
        """Gives captured money back through the account that charged it."""
        return self._connection.run(self._plans.refund(payment_id, amount, reason, options))


class AsyncPayments:
    """`client.payments` of the async client; the same calls.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._plans = PaymentPlans(connection.session)

    async def create(self, *, wait: bool = False, **order: Unpack[NewPayment]) -> Payment:
        """As `Payments.create`."""
        return await self._connection.run(self._plans.create(wait, order))

    async def get(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """As `Payments.get`."""
        return await self._connection.run(self._plans.get(payment_id, options))

    async def wait(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """As `Payments.wait`."""
        return await self._connection.run(self._plans.wait(payment_id, options))

    def list(
        self,
        *,
        status: PaymentStatus | str | None = None,
        page_size: int = limits.PAGE_SIZE,
        **options: Unpack[CallOptions],
    ) -> AsyncIterator[Payment]:
        """As `Payments.list`."""
        return self._connection.pages(self._plans.page(status, page_size, options))

    async def capture(
        self, payment_id: str, amount: Money, **options: Unpack[MoneyOptions]
    ) -> Payment:
        """As `Payments.capture`."""
        return await self._connection.run(self._plans.capture(payment_id, amount, options))

    async def cancel(self, payment_id: str, **options: Unpack[MoneyOptions]) -> Payment:
        """As `Payments.cancel`."""
        return await self._connection.run(self._plans.cancel(payment_id, options))

    async def confirm(self, payment_id: str, **options: Unpack[CallOptions]) -> Payment:
        """As `Payments.confirm`."""
        return await self._connection.run(self._plans.confirm(payment_id, options))

    async def refund(
        self,
        payment_id: str,
        amount: Money,
        *,
        reason: RefundReason | str | None = None,
        **options: Unpack[MoneyOptions],
    ) -> Refund:
        """As `Payments.refund`."""
        return await self._connection.run(self._plans.refund(payment_id, amount, reason, options))
