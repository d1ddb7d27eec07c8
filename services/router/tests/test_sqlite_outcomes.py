from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.domain.chargebacks import DAY_SECONDS, Chargeback, Tally
from smartpay_router.domain.context import Context
from smartpay_router.domain.learning import LoggedOutcomes
from smartpay_router.domain.outcome import Outcome, Sample

DAY = 20_000
SCHEMA = "small-1"
SAMPLE = Sample(
    decision_id="dec_d1" + "1" * 24,
    attempt_index=0,
    merchant_id="mer_d1" + "m" * 24,
    livemode=True,
    processor_account_id="pac_d1" + "a" * 24,
    processor="stripe",
    outcome=Outcome.SUCCEEDED,
    several_rails=False,
    context=Context(SCHEMA, (1.0, -0.1)),
    decided_at=DAY * DAY_SECONDS + 5.25,
    at=DAY * DAY_SECONDS + 7.5,
)
CHARGEBACK = Chargeback(
    "dis_1", sequence=4, decision_id="dec", model="live/stripe", decided_at=86_400.0, share=0.5
)


async def test_an_outcome_is_logged_once_with_all_that_it_taught(outcomes: SqliteOutcomes) -> None:
    assert await outcomes.take_in([SAMPLE, SAMPLE], (), "1") == 1
    assert await outcomes.take_in([replace(SAMPLE, outcome=Outcome.DECLINED)], (), "2") == 0
    page = await outcomes.after(0, "one", SCHEMA)
    assert page._replace(contexts=()) == LoggedOutcomes(
        positions=[1],
        decision_ids=[SAMPLE.decision_id],
        is_final=[1],
        accounts=[SAMPLE.processor_account_id],
        processors=["stripe"],
        livemode=[1],
        outcomes=["SUCCEEDED"],
        several_rails=[0],
        heard_before=[0],
        decided_at=[SAMPLE.decided_at],
        at=[SAMPLE.at],
    )
    (context,) = page.contexts
    assert context is not None
    np.testing.assert_array_equal(np.frombuffer(context, "<f8"), SAMPLE.context.values)
    assert await outcomes.cursor() == "2"


async def test_each_try_of_a_cascade_is_an_outcome_of_its_own(outcomes: SqliteOutcomes) -> None:
    tries = [replace(SAMPLE, attempt_index=i, outcome=Outcome.DECLINED) for i in range(3)]
    assert await outcomes.take_in(tries, (), "1") == 3


async def test_a_silent_try_is_logged_at_once_and_once_more_at_its_end(
    outcomes: SqliteOutcomes,
) -> None:
    silent = replace(SAMPLE, outcome=Outcome.UNANSWERED)
    for sample, new in ((silent, 1), (silent, 0), (SAMPLE, 1), (SAMPLE, 0), (silent, 0)):
        assert await outcomes.take_in([sample], (), "1") == new
    page = await outcomes.after(0, "one", SCHEMA)
    assert page.outcomes == ["UNANSWERED", "SUCCEEDED"]
    assert (page.is_final, page.heard_before) == ([0, 1], [0, 1])


async def test_of_two_replicas_that_hear_the_same_event_one_learns_it(
    store: SqliteStore, tmp_path: Path
) -> None:
    other_store = await SqliteStore.open(tmp_path / "router.db", MIGRATIONS)
    one, two = SqliteOutcomes(store, "one"), SqliteOutcomes(other_store, "two")
    samples = [replace(SAMPLE, decision_id=f"dec_d1{n:024d}") for n in range(20)]
    new = await asyncio.gather(
        *(side.take_in([s], (), str(n)) for n, s in enumerate(samples) for side in (one, two))
    )
    assert sum(new) == 20
    pages = [await one.after(0, "one", SCHEMA), await two.after(0, "two", SCHEMA)]
    for page in pages:
        assert page.positions == sorted(page.positions)
        assert len(page.positions) == 20
    learned = [set(page.only(page.contexts).decision_ids) for page in pages]
    assert not learned[0] & learned[1]
    assert len(learned[0] | learned[1]) == 20
    await other_store.close()


async def test_a_dispute_counts_as_its_newest_change_says_on_the_day_of_its_decision(
    outcomes: SqliteOutcomes,
) -> None:
    async def tally() -> Tally:
        return (await outcomes.tallies(1, 1)).get("live/stripe", Tally())

    for _ in range(2):
        await outcomes.take_in((), [CHARGEBACK], "1")
        assert await tally() == Tally(chargebacks=1, lost_shares=0.5)
    await outcomes.take_in((), [replace(CHARGEBACK, sequence=3, share=0.9)], "2")
    assert await tally() == Tally(chargebacks=1, lost_shares=0.5)
    await outcomes.take_in((), [replace(CHARGEBACK, dispute_id="dis_2", share=1.0)], "3")
    assert await tally() == Tally(chargebacks=2, lost_shares=1.5)
    await outcomes.take_in((), [replace(CHARGEBACK, sequence=9, share=0.0)], "4")
    assert await tally() == Tally(chargebacks=1, lost_shares=1.0)
    assert await outcomes.tallies(2, 9) == {}


async def test_successes_are_counted_once_on_the_day_of_their_decision(
    outcomes: SqliteOutcomes,
) -> None:
    declined = replace(SAMPLE, attempt_index=1, outcome=Outcome.DECLINED)
    await outcomes.take_in([SAMPLE, SAMPLE, declined], (), "1")
    assert await outcomes.tallies(DAY, DAY) == {"live/stripe": Tally(successes=1)}


async def wait_for(store: SqliteStore, number: int, decided_at: float, owner: str = "one") -> None:
    await store.write(
        lambda db: db.execute(
            "INSERT INTO open_decisions VALUES (?, ?, 'pac', 'live/stripe', ?, 'small-1', x'')",
            (f"dec-{number}", owner, decided_at),
        )
    )


async def test_what_never_came_is_given_up_once_and_counted_whoever_waited(
    store: SqliteStore, outcomes: SqliteOutcomes
) -> None:
    for number in range(4):
        await wait_for(store, number, DAY * DAY_SECONDS + number, "one" if number % 2 else "two")
    assert await outcomes.give_up(DAY * DAY_SECONDS + 3) == 3
    assert await outcomes.give_up(DAY * DAY_SECONDS + 3) == 0
    assert await outcomes.tallies(DAY, DAY) == {"live/stripe": Tally(missing=3)}
    (left,) = await outcomes.open_decisions(0)
    assert left.decision_id == "dec-3"


async def test_a_replica_waits_only_for_what_it_decided(
    store: SqliteStore, outcomes: SqliteOutcomes
) -> None:
    await wait_for(store, 1, 10.0)
    await wait_for(store, 2, 10.0, owner="two")
    assert [d.decision_id for d in await outcomes.open_decisions(5.0)] == ["dec-1"]
    assert await outcomes.open_decisions(10.0) == []


async def test_only_what_is_old_and_contained_in_a_snapshot_is_dropped_and_never_counts_again(
    outcomes: SqliteOutcomes,
) -> None:
    samples = [
        replace(SAMPLE, decision_id=f"dec_d1{n:024d}", decided_at=SAMPLE.decided_at + n)
        for n in range(6)
    ]
    await outcomes.take_in(samples, (), "1")
    before = samples[4].decided_at
    assert await outcomes.forget(before, position=3) == 3
    assert (await outcomes.after(0, "one", SCHEMA)).positions == [4, 5, 6]
    # Payments tell their whole log again, when they lost a cursor.
    assert await outcomes.take_in(samples, (), "2") == 0
    assert await outcomes.forget(before, position=6) == 1
    assert await outcomes.take_in(samples, (), "3") == 0
    # An earlier moment does not bring anything back.
    assert await outcomes.forget(0.0, position=6) == 0
    assert await outcomes.take_in(samples[:1], (), "4") == 0


async def test_other_replicas_rows_are_not_dropped_before_their_own_snapshot(
    store: SqliteStore, outcomes: SqliteOutcomes
) -> None:
    await SqliteOutcomes(store, "two").take_in([SAMPLE], (), "1")
    assert await outcomes.forget(SAMPLE.at, position=99) == 0


async def test_a_file_of_the_first_release_keeps_what_it_logged_and_counts_none_of_it_twice(
    tmp_path: Path,
) -> None:
    path = tmp_path / "old.db"
    old = await SqliteStore.open(path, MIGRATIONS[:2])

    def log(db: sqlite3.Connection) -> None:
        db.execute(
            "INSERT INTO outcomes VALUES (7, ?, 0, 'mer', 1, 'pac', 'DECLINED', 'charge-1', '[1]')",
            (SAMPLE.decision_id,),
        )

    await old.write(log)
    await old.close()
    store = await SqliteStore.open(path, MIGRATIONS)
    outcomes = SqliteOutcomes(store, "one")
    assert await outcomes.take_in([SAMPLE], (), "1") == 0
    page = await outcomes.after(0, "one", SCHEMA)
    assert (page.positions, page.is_final, page.contexts) == ([7], [1], [None])
    await store.close()


async def test_contexts_are_read_only_of_rows_that_can_teach_the_asking(
    store: SqliteStore, outcomes: SqliteOutcomes
) -> None:
    older = replace(SAMPLE, attempt_index=1, context=Context("small-0", (1.0,)))
    await outcomes.take_in([SAMPLE, older], (), "1")
    await SqliteOutcomes(store, "two").take_in([replace(SAMPLE, attempt_index=2)], (), "1")
    page = await outcomes.after(0, "one", SCHEMA)
    assert [context is not None for context in page.contexts] == [True, False, False]


async def test_pages_follow_each_other_without_gap_however_many_rows_are_fetched_at_once(
    outcomes: SqliteOutcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartpay_router.adapters.sqlite_outcomes.ROWS_PER_FETCH", 2)
    samples = [replace(SAMPLE, decision_id=f"dec_d1{n:024d}") for n in range(8)]
    await outcomes.take_in(samples, (), "1")
    position, seen = 0, list[str]()
    while (page := await outcomes.after(position, "one", SCHEMA, 3)).positions:
        seen += page.decision_ids
        position = page.positions[-1]
    assert seen == [sample.decision_id for sample in samples]
