from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.context import Context
from smartpay_router.domain.outcome import Outcome, Sample
from smartpay_router.domain.replicas import FencedError, Mind, Replica
from smartpay_router.proof.replay import OWNER, conceive
from smartpay_router.upkeep import Rhythm, Upkeep

START = 1_790_000_000.0
RHYTHM = Rhythm(
    pulse_seconds=0.001,
    exchange_seconds=0.001,
    sweep_seconds=0.001,
    silent_seconds=100.0,
    retention_seconds=1_000.0,
)


class Place:
    """One replica with its upkeep and a clock that stands."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.outcomes = SqliteOutcomes(store, OWNER)
        self.now = START
        self.replica = Replica(OWNER, SqliteReplicas(store), self._empty, lambda: self.now)

    def _empty(self, owner: str, epoch: int) -> Mind:
        return conceive(self.store, owner, epoch)

    async def upkeep(self) -> Upkeep:
        mind = await self.replica.join()
        return Upkeep(mind.learning, self.outcomes, self.replica, RHYTHM, lambda: self.now)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    store = await SqliteStore.open(tmp_path / "router.db", MIGRATIONS)
    yield Place(store)
    await store.close()


@pytest.fixture
def sample(context: Context) -> Sample:
    return Sample(
        decision_id="dec_d1" + "1" * 24,
        attempt_index=0,
        merchant_id="mer_d1" + "m" * 24,
        livemode=True,
        processor_account_id="pac_d1" + "a" * 24,
        processor="stripe",
        outcome=Outcome.SUCCEEDED,
        several_rails=False,
        context=context,
        decided_at=START,
        at=START,
    )


async def test_old_outcomes_go_once_a_snapshot_contains_them(place: Place, sample: Sample) -> None:
    upkeep = await place.upkeep()
    young = replace(sample, decision_id="dec_d1" + "2" * 24, decided_at=START + 500)
    await place.outcomes.take_in([sample, young], (), "1")
    place.now = START + RHYTHM.retention_seconds + 1
    await upkeep.sweep()
    assert len((await place.outcomes.after(0, OWNER, "")).positions) == 2, (
        "no snapshot holds them yet"
    )
    await (await place.upkeep()).sweep()
    assert (await place.outcomes.after(0, OWNER, "")).decided_at == [START + 500]
    # What was dropped is still known: the next life goes on from the snapshot.
    again = await place.replica.join()
    assert again.learner.totals().outcomes == 2


async def test_a_process_whose_name_was_taken_stops(place: Place) -> None:
    upkeep = await place.upkeep()
    running = asyncio.create_task(upkeep.run())
    await Place(place.store).replica.join()
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(running, 10)
    assert caught.group_contains(FencedError)


async def test_the_first_outcome_is_told_to_others_long_before_the_time_for_it(
    place: Place, sample: Sample
) -> None:
    mind = await place.replica.join()
    slow = replace(RHYTHM, exchange_seconds=3_600.0)
    upkeep = Upkeep(mind.learning, place.outcomes, place.replica, slow, lambda: place.now)
    running = asyncio.create_task(upkeep.run())
    await place.outcomes.take_in([sample], (), "1")
    await mind.learning.catch_up()
    async with asyncio.timeout(10):
        while place.replica.published_position != mind.learning.position:
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_learner_without_sums_only_gives_up_what_never_came(
    place: Place, sample: Sample
) -> None:
    mind = conceive(place.store, OWNER, 0)
    upkeep = Upkeep(mind.learning, place.outcomes, None, RHYTHM, lambda: place.now)
    await place.outcomes.take_in([sample], (), "1")
    await place.store.write(
        lambda db: (
            db.execute(
                "INSERT INTO open_decisions VALUES ('dec', 'one', 'pac', 'm', ?, 's', x'')",
                (START,),
            ).rowcount
        )
    )
    place.now = START + 90_000
    await upkeep.sweep()
    assert mind.learning.counts.missing == 1
    assert len((await place.outcomes.after(0, OWNER, "")).positions) == 1
