"""What every store of payments promises; each adapter runs this suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import Attempt, AttemptStatus, Payment, Status
from smartpay_payments.domain.search import PaymentFilter

Payments = SqlitePayments


@dataclass
class Shelf:
    """A store that can be closed and opened again."""

    open: Callable[[], Awaitable[Payments]]
    close: Callable[[], Awaitable[None]]
    payments: Payments

    async def reopen(self) -> None:
        await self.close()
        self.payments = await self.open()


async def sqlite_shelf(folder: Path) -> Shelf:
    stores: list[SqliteStore] = []

    async def open_() -> Payments:
        stores.append(await SqliteStore.open(folder / "payments.db", MIGRATIONS))
        return SqlitePayments(stores[-1])

    async def close() -> None:
        await stores[-1].close()

    return Shelf(open_, close, await open_())


@pytest.fixture(params=[sqlite_shelf], ids=["sqlite"])
async def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shelf]:
    running = await request.param(tmp_path)
    yield running
    await running.close()


@pytest.fixture
def draft(story: Any) -> Callable[..., Payment]:
    """Builds payments a second apart."""

    def build(key: str = "key", order: dict[str, Any] | None = None, **changes: Any) -> Payment:
        story.clock.advance(seconds=1)
        made: Payment = replace(story.draft(key, **(order or {})), **changes)
        return made

    return build


def claim_of(payment: Payment, name: str = "", hashed: str = "hash") -> Claim:
    return Claim(name or payment.payment_id, payment.payment_id, hashed)


def next_of(payment: Payment, **changes: Any) -> Payment:
    return replace(
        payment,
        version=payment.version + 1,
        update_time=payment.update_time + timedelta(seconds=1),
        **changes,
    )


async def read(shelf: Shelf, payment: Payment) -> Payment | None:
    return await shelf.payments.get(payment.merchant_id, payment.livemode, payment.payment_id)


async def sequence(shelf: Shelf, after: int = 0) -> list[tuple[str, int]]:
    events = await shelf.payments.events_after(after, 100)
    return [(e.payment.payment_id, e.payment.version) for e in events]


async def leased(shelf: Shelf, now: datetime, limit: int) -> list[Payment]:
    """Takes what is due, for no longer than this moment."""
    return await shelf.payments.lease_due(now, now, limit)


async def test_a_payment_reads_back_as_it_was_stored_even_after_reopening(
    shelf: Shelf, draft: Any
) -> None:
    payment = draft(order={"metadata": {"cart": "é7"}}, check_time=None)
    assert await shelf.payments.create(payment, claim_of(payment), ()) is None
    changed = next_of(payment, status=Status.UNKNOWN, check_time=payment.create_time)
    assert await shelf.payments.save(changed, ())
    await shelf.reopen()
    assert await read(shelf, payment) == changed
    assert await shelf.payments.version(payment.payment_id, 1) == payment
    assert await shelf.payments.version(payment.payment_id, 3) is None
    assert await shelf.payments.claim(payment.payment_id) == claim_of(payment)
    assert await shelf.payments.claim("nobody") is None


async def test_a_payment_is_found_only_by_its_merchant_and_mode(shelf: Shelf, draft: Any) -> None:
    payment = draft()
    await shelf.payments.create(payment, claim_of(payment), ())
    for merchant_id, livemode in (("mer_other", False), (payment.merchant_id, True)):
        assert await shelf.payments.get(merchant_id, livemode, payment.payment_id) is None
        assert await shelf.payments.page(merchant_id, livemode, PaymentFilter(), "", 10) == ([], "")


async def test_creating_twice_answers_what_is_stored_and_stores_nothing(
    shelf: Shelf, draft: Any
) -> None:
    payment = draft()
    await shelf.payments.create(payment, claim_of(payment), ())
    again = replace(payment, status_reason="other")
    assert await shelf.payments.create(again, claim_of(again), ()) == payment
    assert await sequence(shelf) == [(payment.payment_id, 1)]


async def test_of_racing_creators_one_stores(shelf: Shelf, draft: Any) -> None:
    payment = draft()
    answers = await asyncio.gather(
        *(shelf.payments.create(payment, claim_of(payment), ()) for _ in range(64))
    )
    assert answers.count(None) == 1
    assert answers.count(payment) == 63


async def test_of_racing_savers_one_wins_and_the_losers_store_nothing(
    shelf: Shelf, draft: Any
) -> None:
    payment = draft()
    await shelf.payments.create(payment, claim_of(payment), ())
    entry = LedgerEntry("capture", "merchant:m", 5, "USD", payment.create_time)
    saved = await asyncio.gather(
        *(
            shelf.payments.save(
                next_of(payment, status_reason=str(n)),
                [replace(entry, minor_units=n)],
                claim_of(payment, f"claim {n}"),
            )
            for n in range(64)
        )
    )
    winner = saved.index(True)
    assert saved.count(True) == 1
    stored = await read(shelf, payment)
    assert stored is not None
    assert stored.status_reason == str(winner)
    assert [e.minor_units for e in await shelf.payments.ledger(payment.payment_id)] == [winner]
    claims = [await shelf.payments.claim(f"claim {n}") for n in range(64)]
    assert [n for n, c in enumerate(claims) if c] == [winner]
    assert await sequence(shelf) == [(payment.payment_id, 1), (payment.payment_id, 2)]


@pytest.mark.parametrize(
    ("hashed", "kind"), [("hash", Kind.ABORTED), ("other", Kind.INVALID_ARGUMENT)]
)
async def test_a_claim_is_made_once_and_the_second_unit_stores_nothing(
    shelf: Shelf, draft: Any, hashed: str, kind: Kind
) -> None:
    payment = draft()
    await shelf.payments.create(payment, claim_of(payment), ())
    await shelf.payments.save(next_of(payment), (), claim_of(payment, "refund"))
    third = replace(next_of(payment), version=3)
    with pytest.raises(Refusal) as refused:
        await shelf.payments.save(third, (), claim_of(payment, "refund", hashed))
    assert refused.value.kind is kind
    stored = await read(shelf, payment)
    assert stored is not None
    assert stored.version == 2


async def test_an_order_id_is_held_until_the_payment_is_surely_not_paid(
    shelf: Shelf, draft: Any
) -> None:
    order = {"merchant_order_id": "o"}
    first, second = draft("a", order), draft("b", order)
    await shelf.payments.create(first, claim_of(first), ())
    with pytest.raises(Refusal) as refused:
        await shelf.payments.create(second, claim_of(second), ())
    assert refused.value.reason == "ORDER_ALREADY_PAID"
    assert await shelf.payments.claim(second.payment_id) is None
    other_mode = draft("c", order, livemode=True)
    assert await shelf.payments.create(other_mode, claim_of(other_mode), ()) is None
    await shelf.payments.save(next_of(first, status=Status.FAILED), ())
    assert await shelf.payments.create(second, claim_of(second), ()) is None


async def test_a_blocked_payment_never_holds_its_order_id(shelf: Shelf, draft: Any) -> None:
    order = {"merchant_order_id": "o"}
    blocked, paid = draft("a", order, status=Status.BLOCKED), draft("b", order)
    await shelf.payments.create(blocked, claim_of(blocked), ())
    assert await shelf.payments.create(paid, claim_of(paid), ()) is None


async def test_pages_go_from_new_to_old_and_end(shelf: Shelf, draft: Any) -> None:
    made = [draft(str(n), status=Status.SUCCEEDED if n % 2 else Status.FAILED) for n in range(5)]
    made += [replace(draft("same"), create_time=made[-1].create_time)]
    for payment in made:
        await shelf.payments.create(payment, claim_of(payment), ())

    async def pages(status: Status | None, size: int) -> list[str]:
        found, after = [], ""
        wanted = PaymentFilter(statuses=() if status is None else (status,))
        while True:
            page, after = await shelf.payments.page(made[0].merchant_id, False, wanted, after, size)
            assert len(page) <= size
            found += [p.payment_id for p in page]
            if not after:
                return found

    newest_first = sorted(made, key=lambda p: (p.create_time, p.payment_id), reverse=True)
    for size in (1, 2, 6, 7):
        assert await pages(None, size) == [p.payment_id for p in newest_first]
    assert await pages(Status.SUCCEEDED, 1) == [made[3].payment_id, made[1].payment_id]


async def test_what_is_due_is_found_longest_waiting_first(shelf: Shelf, draft: Any) -> None:
    base = draft()
    due = [
        replace(draft(str(n)), check_time=base.create_time + timedelta(seconds=s))
        for n, s in enumerate((30, 10, 20))
    ]
    for payment in [*due, draft("settled")]:
        await shelf.payments.create(payment, claim_of(payment), ())

    async def found(seconds: float, limit: int = 10) -> list[str]:
        now = base.create_time + timedelta(seconds=seconds)
        return [p.payment_id for p in await leased(shelf, now, limit)]

    ids = [p.payment_id for p in due]
    assert await found(9.9) == []
    assert await found(20) == [ids[1], ids[2]]
    assert sorted(await found(99, limit=2)) == sorted([ids[1], ids[2]])


async def test_a_leased_payment_is_nobody_else_s_until_the_lease_ends(
    shelf: Shelf, draft: Any
) -> None:
    payment = draft()
    now = payment.create_time
    await shelf.payments.create(replace(payment, check_time=now), claim_of(payment), ())
    until = now + timedelta(seconds=60)
    racers = [shelf.payments.lease_due(now, until, 10) for _ in range(8)]
    assert sorted(len(found) for found in await asyncio.gather(*racers)) == [0] * 7 + [1]
    assert await shelf.payments.lease_due(until - timedelta(seconds=1), until, 10) == []
    assert len(await shelf.payments.lease_due(until, until, 10)) == 1


async def test_at_start_all_payments_in_doubt_are_due_and_no_others(
    shelf: Shelf, draft: Any
) -> None:
    base = draft()
    later = base.create_time + timedelta(hours=1)
    statuses = [Status.PROCESSING, Status.UNKNOWN, Status.REQUIRES_ACTION, Status.SUCCEEDED]
    for status in statuses:
        payment = draft(status.value, status=status, check_time=later)
        await shelf.payments.create(payment, claim_of(payment), ())
    settled = draft("settled", status=Status.SUCCEEDED)
    await shelf.payments.create(settled, claim_of(settled), ())
    assert await shelf.payments.make_due(base.create_time) == 2
    found = await leased(shelf, base.create_time, 10)
    assert {p.status for p in found} == {Status.PROCESSING, Status.UNKNOWN}


async def test_an_account_that_answers_again_wakes_no_payment_that_a_story_is_at_work_on(
    shelf: Shelf, draft: Any
) -> None:
    base = draft()
    later = base.create_time + timedelta(hours=1)
    tried = Attempt(0, "pac", "stripe", "key", "{}", AttemptStatus.STARTED, base.create_time)
    for status in (Status.PROCESSING, Status.UNKNOWN):
        payment = draft(status.value, status=status, attempts=(tried,), check_time=later)
        await shelf.payments.create(payment, claim_of(payment), ())
    woken = await shelf.payments.make_due(base.create_time, "pac")
    assert woken == 1
    (found,) = await leased(shelf, base.create_time, 10)
    assert found.status is Status.UNKNOWN


async def test_a_postponed_payment_makes_no_version_and_a_changed_one_is_not_postponed(
    shelf: Shelf, draft: Any
) -> None:
    payment = draft()
    payment = replace(payment, check_time=payment.create_time)
    later = payment.create_time + timedelta(minutes=1)
    await shelf.payments.create(payment, claim_of(payment), ())
    await shelf.payments.postpone(payment, later)
    assert await leased(shelf, payment.create_time, 10) == []
    assert await leased(shelf, later, 10) == [payment]
    assert await sequence(shelf) == [(payment.payment_id, 1)]

    settled = next_of(payment, check_time=None)
    await shelf.payments.save(settled, ())
    await shelf.payments.postpone(payment, payment.create_time)
    assert await leased(shelf, later, 10) == []


async def test_the_ledger_reads_in_the_order_it_was_posted(shelf: Shelf, draft: Any) -> None:
    payment = draft()
    second = payment.create_time + timedelta(seconds=1)
    authorized = [
        LedgerEntry("authorize", "hold", 5, "USD", payment.create_time),
        LedgerEntry("authorize", "held", -5, "USD", payment.create_time),
    ]
    await shelf.payments.create(payment, claim_of(payment), authorized)
    captured = [LedgerEntry("capture", "merchant", -5, "USD", second)]
    await shelf.payments.save(next_of(payment), captured)
    assert await shelf.payments.ledger(payment.payment_id) == [
        authorized[1],
        authorized[0],
        *captured,
    ]
    assert await shelf.payments.ledger("pay_other") == []


async def test_the_log_is_read_in_batches_from_any_position(shelf: Shelf, draft: Any) -> None:
    made = [draft(str(n)) for n in range(3)]
    for payment in made:
        await shelf.payments.create(payment, claim_of(payment), ())
    first = await shelf.payments.events_after(0, 2)
    assert [e.payment for e in first] == made[:2]
    assert await sequence(shelf, first[-1].position) == [(made[2].payment_id, 1)]


async def test_old_events_are_forgotten_without_leaving_a_hole(shelf: Shelf, draft: Any) -> None:
    made = [draft(str(n)) for n in range(4)]
    # The clock was set back: the third event is older than its place says.
    made[2] = replace(made[2], update_time=made[0].update_time)
    for payment in made:
        await shelf.payments.create(payment, claim_of(payment), ())
    positions = [e.position for e in await shelf.payments.events_after(0, 10)]

    assert await shelf.payments.forget_events(made[1].update_time) == 1
    assert await shelf.payments.forget_events(made[1].update_time) == 0

    assert len(await sequence(shelf)) == 3
    assert await shelf.payments.version(made[0].payment_id, 1) is None
    assert await read(shelf, made[0]) == made[0]
    assert len(await sequence(shelf, positions[0])) == 3, "nothing after it is gone"
    assert await shelf.payments.forget_events(made[3].update_time + timedelta(days=1)) == 3
    for position, gone in ((positions[0], True), (positions[3], False), (positions[3] + 1, True)):
        if gone:
            with pytest.raises(Refusal) as refused:
                await sequence(shelf, position)
            assert refused.value.kind is Kind.OUT_OF_RANGE
        else:
            assert await sequence(shelf, position) == []


async def test_a_reader_hears_of_a_commit_made_while_it_was_reading(
    shelf: Shelf, draft: Any
) -> None:
    committed = shelf.payments.next_commit()
    assert await sequence(shelf) == []
    payment = draft()
    await shelf.payments.create(payment, claim_of(payment), ())
    assert committed.is_set()
    assert not shelf.payments.next_commit().is_set()
