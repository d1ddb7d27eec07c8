"""Balance transactions, payouts and disputes of the sandbox's Stripe, by the unmodified SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from smartpay_sandbox.stripe_disputes import _OPEN
from smartpay_sandbox.stripe_payouts import ARRIVES_AFTER_SECONDS
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[StripeSandbox]:
    async with stripe_sandbox(tmp_path) as running:
        yield running


async def charged(sandbox: StripeSandbox, amount: int = 2000, method: str = "pm_card_visa") -> Any:
    return await sandbox.client().v1.payment_intents.create_async(
        params={
            "amount": amount,
            "currency": "usd",
            "payment_method": method,
            "confirm": True,
            "allowed_payment_method_types": ["card"],
            "metadata": {"payment_id": "pay"},
        }
    )


async def paid_out(sandbox: StripeSandbox, **params: Any) -> Any:
    given: Any = {"amount": 500, "currency": "usd", **params}
    return await sandbox.client().v1.payouts.create_async(params=given)


async def test_balance_transactions_are_listed_with_what_moved_them(sandbox: StripeSandbox) -> None:
    intent = await charged(sandbox)
    client = sandbox.client()
    await client.v1.refunds.create_async(params={"payment_intent": intent.id, "amount": 300})
    await paid_out(sandbox)
    moved = (
        await client.v1.balance_transactions.list_async(params={"expand": ["data.source"]})
    ).data
    assert [(t.type, t.amount, t.fee) for t in moved] == [
        ("payout", -500, 0),
        ("refund", -300, 0),
        ("charge", 2000, 88),
    ]
    sources = [t.source for t in moved]
    assert isinstance(sources[0], stripe.Payout)
    assert isinstance(sources[1], stripe.Refund)
    assert isinstance(sources[2], stripe.Charge)
    assert sources[2].metadata["payment_id"] == "pay"
    only = await client.v1.balance_transactions.list_async(params={"type": "payout"})
    assert [t.type for t in only.data] == ["payout"]


async def test_a_payout_arrives_when_its_day_has_come(sandbox: StripeSandbox) -> None:
    await charged(sandbox)
    made = await paid_out(sandbox)
    client = sandbox.client()
    assert made.status == "in_transit"
    sandbox.clock.advance(ARRIVES_AFTER_SECONDS - 1)
    assert (await client.v1.payouts.retrieve_async(made.id)).status == "in_transit"
    sandbox.clock.advance(1)
    assert (await client.v1.payouts.retrieve_async(made.id)).status == "paid"
    listed = await client.v1.payouts.list_async(params={"status": "paid"})
    assert [p.id for p in listed.data] == [made.id]


async def test_a_payout_to_a_closed_account_comes_back_and_can_be_sent_again(
    sandbox: StripeSandbox,
) -> None:
    await charged(sandbox, 600)
    made = await paid_out(sandbox, destination="ba_account_closed")
    with pytest.raises(stripe.InvalidRequestError, match="insufficient funds"):
        await paid_out(sandbox)
    sandbox.clock.advance(ARRIVES_AFTER_SECONDS)
    returned = await sandbox.client().v1.payouts.retrieve_async(made.id)
    assert (returned.status, returned.failure_code) == ("failed", "account_closed")
    assert returned.failure_balance_transaction is not None
    assert (await paid_out(sandbox)).status == "in_transit"


async def test_no_more_is_paid_out_than_is_held_after_fees(sandbox: StripeSandbox) -> None:
    await charged(sandbox, 600)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await paid_out(sandbox, amount=554)
    assert refused.value.code == "balance_insufficient"
    assert (await paid_out(sandbox, amount=553)).amount == 553


async def disputed(sandbox: StripeSandbox) -> Any:
    intent = await charged(sandbox, method="pm_card_createDispute")
    found = await sandbox.client().v1.disputes.list_async(params={"payment_intent": intent.id})
    (dispute,) = found.data
    return dispute


async def test_a_disputed_charge_is_taken_back_with_a_fee(sandbox: StripeSandbox) -> None:
    dispute = await disputed(sandbox)
    assert (dispute.status, dispute.reason, dispute.amount) == (
        "needs_response",
        "fraudulent",
        2000,
    )
    assert [(t.amount, t.fee, t.type) for t in dispute.balance_transactions] == [
        (-2000, 1500, "adjustment")
    ]
    charge = await sandbox.client().v1.charges.retrieve_async(dispute.charge)
    assert charge.disputed


@pytest.mark.parametrize(
    ("text", "status", "moved"),
    [
        ("winning_evidence", "won", [-2000, 2000]),
        ("losing_evidence", "lost", [-2000]),
        ("We sent it.", "under_review", [-2000]),
    ],
)
async def test_the_evidence_decides(
    sandbox: StripeSandbox, text: str, status: str, moved: list[int]
) -> None:
    dispute = await disputed(sandbox)
    client = sandbox.client()
    noted = await client.v1.disputes.update_async(
        dispute.id, params={"evidence": {"uncategorized_text": text}, "submit": False}
    )
    assert (noted.status, noted.evidence_details.has_evidence) == ("needs_response", True)
    ended = await client.v1.disputes.update_async(dispute.id, params={"submit": True})
    assert ended.status == status
    assert [t.amount for t in ended.balance_transactions] == moved
    if status not in _OPEN:
        with pytest.raises(stripe.InvalidRequestError, match="already closed"):
            await client.v1.disputes.close_async(dispute.id)


async def test_a_dispute_can_be_given_up(sandbox: StripeSandbox) -> None:
    dispute = await disputed(sandbox)
    client = sandbox.client()
    assert (await client.v1.disputes.close_async(dispute.id)).status == "lost"
    assert (await client.v1.disputes.retrieve_async(dispute.id)).status == "lost"
