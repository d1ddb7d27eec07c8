"""What Stripe itself keeps of an account: its charges, balance transactions and payouts.

API reference: https://docs.stripe.com/api/balance_transactions, /payouts, /payment_intents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import stripe

from smartpay_payments.adapters.stripe_amounts import from_stripe
from smartpay_payments.adapters.stripe_clients import FAILURES, StripeClients
from smartpay_payments.domain.reconciliation import (
    BooksUnreadableError,
    ChargeState,
    ProcessorCharge,
)
from smartpay_payments.domain.settlement import (
    AccountFee,
    ChargeFee,
    Payout,
    PayoutState,
    SettlementLine,
)

PAGE_SIZE = 100  # Stripe's own limit
_CHARGE_STATES = {
    "succeeded": ChargeState.CAPTURED,
    "requires_capture": ChargeState.AUTHORIZED,
    "canceled": ChargeState.ENDED,
    "requires_payment_method": ChargeState.ENDED,
}
_PAYOUT_STATES = {
    "paid": PayoutState.ARRIVED,
    "failed": PayoutState.RETURNED,
    "canceled": PayoutState.RETURNED,
}
# Told by the payment itself, or by the payout's own state.
_TOLD_ELSEWHERE = frozenset(
    {
        "refund",
        "payment_refund",
        "adjustment",
        "payout",
        "payout_failure",
        "payout_cancel",
        "refund_failure",
        "payment_failure_refund",
        "payment_reversal",
    }
)


class StripeBooks:
    """The ports `ProcessorBooks` and `SettlementSource` for Stripe accounts.

    Args:
        clients: one per account.
    """

    def __init__(self, clients: StripeClients) -> None:
        self._clients = clients

    # ---- charges -----------------------------------------------------------------------------

    async def charges(
        self, processor_account_id: str, since: datetime, until: datetime
    ) -> AsyncIterator[ProcessorCharge]:
        """Yields every charge of an account that was asked for in a window."""
        client = self._clients[processor_account_id]
        async for intent in _listed(
            client.v1.payment_intents.list_async,
            {
                "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
                "expand": ["data.latest_charge.balance_transaction"],
            },
        ):
            yield await self._charge_of(client, processor_account_id, intent)

    async def _charge_of(
        self, client: stripe.StripeClient, account: str, intent: stripe.PaymentIntent
    ) -> ProcessorCharge:
        metadata = intent.metadata.to_dict() if intent.metadata else {}
        index = metadata.get("attempt_index", "0")
        state = _CHARGE_STATES.get(intent.status, ChargeState.OPEN)
        refunded = disputed = 0
        fee = None
        charge = intent.latest_charge
        if state is ChargeState.CAPTURED and isinstance(charge, stripe.Charge):
            refunded = charge.amount_refunded
            moved = charge.balance_transaction
            if isinstance(moved, stripe.BalanceTransaction) and moved.currency == intent.currency:
                fee = from_stripe(moved.fee, moved.currency)
            if charge.disputed:
                disputed = await self._disputed(client, intent.id)
        captured = intent.amount_received if state is ChargeState.CAPTURED else 0
        authorized = intent.amount_capturable if state is ChargeState.AUTHORIZED else intent.amount
        return ProcessorCharge(
            processor_account_id=account,
            processor_payment_id=intent.id,
            payment_id=metadata.get("payment_id", ""),
            attempt_index=int(index) if index.isdigit() else 0,
            state=state,
            currency_code=intent.currency.upper(),
            create_time=_moment(intent.created),
            authorized_minor=from_stripe(authorized, intent.currency),
            captured_minor=from_stripe(captured, intent.currency),
            refunded_minor=from_stripe(refunded, intent.currency),
            disputed_minor=from_stripe(disputed, intent.currency),
            fee_minor=fee,
        )

    async def _disputed(self, client: stripe.StripeClient, intent_id: str) -> int:
        won = {"won", "warning_closed", "prevented"}
        return sum(
            [
                dispute.amount
                async for dispute in _listed(
                    client.v1.disputes.list_async, {"payment_intent": intent_id}
                )
                if dispute.status not in won
            ]
        )

    # ---- settlement --------------------------------------------------------------------------

    async def lines(
        self, processor_account_id: str, since: datetime
    ) -> AsyncIterator[SettlementLine]:
        """Yields fees and payouts of an account since a moment, newest first."""
        client = self._clients[processor_account_id]
        filters = {"created": {"gte": int(since.timestamp())}, "expand": ["data.source"]}
        async for moved in _listed(client.v1.balance_transactions.list_async, filters):
            line = _line_of(moved)
            if line is not None:
                yield line

    async def payout(self, processor_account_id: str, payout_id: str) -> Payout:
        """Reads how one payout stands."""
        client = self._clients[processor_account_id]
        try:
            made = await client.v1.payouts.retrieve_async(payout_id)
        except FAILURES as error:
            raise BooksUnreadableError(type(error).__name__) from error
        return _payout_of(made)


def _line_of(moved: stripe.BalanceTransaction) -> SettlementLine | None:
    code, created = moved.currency.upper(), _moment(moved.created)
    source = moved.source
    if isinstance(source, stripe.Payout) and moved.type == "payout":
        return _payout_of(source)
    if isinstance(source, stripe.Charge):
        metadata = source.metadata.to_dict() if source.metadata else {}
        fee = from_stripe(moved.fee, moved.currency)
        return ChargeFee(moved.id, created, metadata.get("payment_id", ""), fee, code)
    if moved.type in _TOLD_ELSEWHERE:
        fee = from_stripe(moved.fee, moved.currency) if moved.type != "adjustment" else 0
    else:
        # All else that Stripe takes or gives, for instance stripe_fee: it has no payment.
        fee = -from_stripe(moved.net, moved.currency)
    return AccountFee(moved.id, created, fee, code) if fee else None


def _payout_of(made: stripe.Payout) -> Payout:
    return Payout(
        line_id=made.id,
        create_time=_moment(made.created),
        minor_units=from_stripe(made.amount, made.currency),
        currency_code=made.currency.upper(),
        state=_PAYOUT_STATES.get(made.status, PayoutState.ON_ITS_WAY),
    )


async def _listed(
    read_page: Callable[..., Awaitable[Any]], filters: Mapping[str, Any]
) -> AsyncIterator[Any]:
    """Yields what a list of Stripe's holds, page after page, newest first."""
    params: dict[str, Any] = {**filters, "limit": PAGE_SIZE}
    while True:
        try:
            page = await read_page(params=params)
        except FAILURES as error:
            raise BooksUnreadableError(type(error).__name__) from error
        for item in page.data:
            yield item
        if not page.has_more:
            return
        params["starting_after"] = page.data[-1].id


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
