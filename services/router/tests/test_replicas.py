from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.breakers import Breakers, BreakerTuning, State
from smartpay_router.domain.context import Context
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learner import Arm
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.outcome import Outcome, Sample
from smartpay_router.domain.replicas import (
    BASE,
    SIGN_OF_LIFE_SECONDS,
    FencedError,
    Mind,
    Pulse,
    Replica,
    outweighs,
)
from smartpay_router.domain.schema import Schema
from smartpay_router.domain.steering import Steering
from smartpay_router.domain.totals import Totals, merged

SCHEMA = Schema("small-1", ("intercept", "slope"), (1.0, 20.0))
START = 1_700_000_000.0
ARMS = (Arm("pac_a", "test/stripe"), Arm("pac_b", "test/stripe"), Arm("pac_c", "test/solana"))
SILENT_SECONDS = 100.0


class Town:
    """Some replicas on one store; each of their lives is a new process."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.now = START
        self.told = 0
        self.lives: dict[str, tuple[Replica, Mind]] = {}

    def replica(self, owner: str, schema: Schema = SCHEMA) -> Replica:
        def conceive(name: str, epoch: int) -> Mind:
            learner = LinUcb(schema, Tuning(memory_seconds=5_000.0), name, epoch)
            breakers = Breakers(BreakerTuning(known_outcomes=5), name, epoch)
            steering = Steering(learner, breakers, Budgets())
            outcomes = SqliteOutcomes(self.store, name)
            return Mind(
                learner, breakers, steering, Learning(steering, learner, outcomes, schema, name)
            )

        return Replica(owner, SqliteReplicas(self.store), conceive, lambda: self.now)

    async def begin(self, owner: str, schema: Schema = SCHEMA) -> Mind:
        replica = self.replica(owner, schema)
        mind = await replica.join()
        self.lives[owner] = (replica, mind)
        return mind

    def sample(self, outcome: Outcome, arm: Arm, slope: float, decided_at: float) -> Sample:
        self.told += 1
        return Sample(
            decision_id=f"dec_d1{self.told:024d}",
            attempt_index=0,
            merchant_id="mer_d1" + "m" * 24,
            livemode=False,
            processor_account_id=arm.account,
            processor=arm.model.partition("/")[2],
            outcome=outcome,
            several_rails=True,
            context=Context(SCHEMA.name, (1.0, slope)),
            decided_at=decided_at,
            at=self.now,
        )

    async def tell(self, owner: str, *samples: Sample) -> int:
        """Gives a living replica outcomes to store and to learn."""
        new = await SqliteOutcomes(self.store, owner).take_in(samples, (), "cursor")
        await self.lives[owner][1].learning.catch_up()
        return new

    async def harm(self, damage: str) -> None:
        """Changes the stored states behind everybody's back."""
        await self.store.write(
            lambda db: db.execute(f"UPDATE replica_states SET {damage}").rowcount
        )

    async def exchange(self) -> None:
        for replica, _ in [*self.lives.values()] * 2:
            await replica.exchange()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    store = await SqliteStore.open(tmp_path / "router.db", MIGRATIONS)
    yield Town(store)
    await store.close()


def assert_equal(mind: Mind, oracle: LinUcb, at: float) -> None:
    """Compares what a replica believes with one learner that saw everything."""
    at += 1_000.0  # both solve for their weights anew, so that neither is a little behind
    for slope in (-1.0, 0.0, 0.7):
        known = mind.learner.estimates(ARMS, (1.0, slope), at)
        expected = oracle.estimates(ARMS, (1.0, slope), at)
        np.testing.assert_allclose(known.success, expected.success, rtol=1e-9)
        np.testing.assert_allclose(known.width, expected.width, rtol=1e-9)
        np.testing.assert_array_equal(known.outcomes, expected.outcomes)


def teach(oracle: LinUcb, sample: Sample) -> None:
    reward = sample.reward()
    assert reward is not None
    oracle.learn(sample.arm, sample.context.values, reward, sample.decided_at)


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_dies_sleeps_or_comes_back_all_know_what_one_would(
    town: Town, seed: int
) -> None:
    dice = random.Random(seed)
    oracle = LinUcb(SCHEMA, Tuning(memory_seconds=5_000.0))
    names = ["a", "b", "c", "d"]
    taken: list[Sample] = []
    for name in names:
        await town.begin(name)
    for _ in range(80):
        town.now += dice.uniform(1, 60)
        deed = dice.random()
        if deed < 0.6:
            owner = dice.choice(sorted(town.lives))
            # Some outcomes come late, some twice and elsewhere.
            decided_at = town.now - dice.choice([1.0, 30.0, 4_000.0])
            outcome = dice.choice([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.ABANDONED])
            sample = town.sample(outcome, dice.choice(ARMS), dice.gauss(0, 1), decided_at)
            assert await town.tell(owner, sample) == 1
            taken.append(sample)
            assert await town.tell(dice.choice(sorted(town.lives)), dice.choice(taken)) == 0
            teach(oracle, sample)
        elif deed < 0.8:
            await town.lives[dice.choice(sorted(town.lives))][0].exchange()
        elif deed < 0.87 and len(town.lives) > 1:
            del town.lives[dice.choice(sorted(town.lives))]  # it dies without a word
        elif deed < 0.94:
            await town.begin(dice.choice(names))  # it comes back, or is replaced while it lives
        elif town.lives:
            replica, _ = town.lives[dice.choice(sorted(town.lives))]
            await replica.exchange()
            silent = {s.owner for s in await SqliteReplicas(town.store).states()}
            silent -= {*town.lives, BASE}
            town.now += SILENT_SECONDS + 1
            for living, _ in town.lives.values():
                await living.exchange()
            assert set(await replica.retire_the_gone(SILENT_SECONDS)) == silent
    for name in names:
        if name not in town.lives:
            await town.begin(name)
    await town.exchange()
    for _, mind in town.lives.values():
        assert_equal(mind, oracle, town.now)


async def test_the_sums_of_all_rows_are_exact(town: Town) -> None:
    oracle = LinUcb(SCHEMA, Tuning(memory_seconds=5_000.0))
    dice = random.Random(7)
    for name in "abcd":
        await town.begin(name)
    for _ in range(200):
        town.now += 20
        sample = town.sample(
            Outcome.SUCCEEDED, dice.choice(ARMS), dice.gauss(0, 1), town.now - dice.random() * 900
        )
        await town.tell(dice.choice("abcd"), sample)
        teach(oracle, sample)
    await town.exchange()
    stored = await SqliteReplicas(town.store).states()
    union = merged(Totals.decode(state.totals) for state in stored)
    expected = merged([oracle.totals()])
    for name, model in expected.models.items():
        np.testing.assert_allclose(union.models[name].values, model.values, rtol=1e-12, atol=1e-12)
        assert union.models[name].outcomes == model.outcomes


async def test_a_start_reads_only_the_log_behind_its_snapshot(town: Town) -> None:
    mind = await town.begin("a")
    for _ in range(5):
        await town.tell("a", town.sample(Outcome.SUCCEEDED, ARMS[0], 0.3, town.now))
    await town.lives["a"][0].exchange()
    await town.tell("a", town.sample(Outcome.ABANDONED, ARMS[0], 0.3, town.now))
    again = await town.begin("a")
    assert again.learning.counts.learned == 1
    assert_equal(again, mind.learner, town.now)


async def test_an_outage_that_began_before_the_snapshot_is_told_after_it(town: Town) -> None:
    """The breakers' suspicion, and what they hold back, are part of the snapshot."""
    rows = [Outcome.SUCCEEDED] * 30 + [Outcome.TECHNICAL_FAILURE] * 6
    samples = [town.sample(outcome, ARMS[0], 0.1, START + n) for n, outcome in enumerate(rows)]
    await town.begin("a")
    await town.tell("a", *samples[:32])
    mind = await town.begin("a")
    await town.lives["a"][0].exchange()
    mind = await town.begin("a")
    await town.tell("a", *samples[32:])
    assert mind.breakers.standing(ARMS[0].account, ARMS[0].model).state is State.OPEN
    assert mind.learner.totals().models["test/stripe"].outcomes == 30


async def test_an_open_breaker_of_one_replica_keeps_all_from_the_account(town: Town) -> None:
    await town.begin("a")
    other = await town.begin("b")
    await town.exchange()
    for replica, _ in town.lives.values():
        await replica.pulse()
    samples = [
        town.sample(outcome, ARMS[0], 0.1, START + 1)
        for outcome in [Outcome.SUCCEEDED] * 30 + [Outcome.TECHNICAL_FAILURE] * 6
    ]
    town.now += 2
    await town.tell("a", *samples)
    for replica, _ in town.lives.values():
        await replica.pulse()
    assert other.breakers.standing(ARMS[0].account, ARMS[0].model).state is State.OPEN


async def test_a_process_whose_name_was_taken_must_stop(town: Town) -> None:
    await town.begin("a")
    sleeper, _ = town.lives["a"]
    await town.begin("a")
    with pytest.raises(FencedError):
        await sleeper.exchange()


async def test_a_snapshot_of_another_schema_is_dropped_and_the_log_learned_again(
    town: Town,
) -> None:
    await town.begin("a")
    await town.begin("gone")
    await town.tell("a", town.sample(Outcome.SUCCEEDED, ARMS[0], 0.1, town.now))
    await town.tell("gone", town.sample(Outcome.SUCCEEDED, ARMS[1], 0.1, town.now))
    await town.exchange()
    town.now += SILENT_SECONDS + 1
    await town.lives["a"][0].exchange()
    assert await town.lives["a"][0].retire_the_gone(SILENT_SECONDS) == ["gone"]
    # Another ridge is another schema, though the log's contexts mean the same.
    stiffer = Schema("small-1", SCHEMA.features, (1.0, 40.0))
    mind = await town.begin("a", stiffer)
    estimates = mind.learner.estimates(ARMS, (1.0, 0.1), town.now)
    assert list(estimates.outcomes) == [1, 1, 0]
    assert {s.owner for s in await SqliteReplicas(town.store).states()} == {"a", BASE}


async def test_a_damaged_snapshot_is_dropped_and_the_log_learned_again(town: Town) -> None:
    mind = await town.begin("a")
    for number in range(4):
        await town.tell("a", town.sample(Outcome.SUCCEEDED, ARMS[number % 3], 0.3, town.now))
    await town.lives["a"][0].exchange()
    for damage in ("totals = x'00'", "breakers = x'00'"):
        await town.harm(damage)
        again = await town.begin("a")
        assert again.learning.counts.learned == 4
        assert_equal(again, mind.learner, town.now)


async def test_who_has_nothing_new_publishes_only_a_sign_of_life(town: Town) -> None:
    await town.begin("a")
    replica, _ = town.lives["a"]
    seen = []
    for seconds in (1.0, SIGN_OF_LIFE_SECONDS, 1.0):
        town.now += seconds
        await replica.exchange()
        (state,) = await SqliteReplicas(town.store).states()
        seen.append(state.seen_at)
    assert seen == [START, town.now - 1.0, town.now - 1.0]


@pytest.mark.parametrize("replicas", [1, 2, 16])
def test_exchanges_by_news_grow_with_the_logarithm_of_what_is_known(replicas: int) -> None:
    known = news = exchanges = 0
    while known < 100_000:
        news += 1
        if outweighs(news, known, replicas):
            known += news * replicas
            news = 0
            exchanges += 1
    assert exchanges <= 2 + math.log2(100_000)
    assert not outweighs(0, 0, replicas)


async def test_news_are_told_at_once_while_little_is_known_and_wait_when_much_is(
    town: Town,
) -> None:
    for name in "ab":
        await town.begin(name)
    await town.exchange()
    replica, _ = town.lives["a"]
    waits = []
    for _ in range(7):
        news = asyncio.create_task(replica.news())
        await asyncio.sleep(0)
        assert not news.done(), "nothing was learned since"
        told = 0
        while not news.done():
            await town.tell("a", town.sample(Outcome.SUCCEEDED, ARMS[0], 0.1, town.now))
            told += 1
            await asyncio.sleep(0)
        waits.append(told)
        await replica.exchange()
    assert waits == [1, 1, 1, 2, 3, 4, 6], "half of what is known, as there are two replicas"


async def test_no_replica_can_be_called_as_the_base_is(town: Town) -> None:
    with pytest.raises(ValueError, match="base"):
        town.replica(BASE)


async def test_breakers_that_heard_nothing_new_are_not_told_again(town: Town) -> None:
    for name in "ab":
        await town.begin(name)
    await town.exchange()
    replica, _ = town.lives["a"]
    told = []
    for outcome in (Outcome.SUCCEEDED, None, Outcome.TECHNICAL_FAILURE):
        if outcome is not None:
            await town.tell("a", town.sample(outcome, ARMS[0], 0.1, town.now))
        await replica.pulse()
        (pulse,) = await SqliteReplicas(town.store).pulses()
        told.append(pulse.sequence)
    assert told == [1, 1, 2]


async def test_a_pulse_of_another_format_is_passed_over(town: Town) -> None:
    for name in "abc":
        await town.begin(name)
    await town.exchange()
    epoch = await SqliteReplicas(town.store).join("c")
    await SqliteReplicas(town.store).pulse(Pulse("c", epoch, 1, b"news of tomorrow"))
    await town.tell("b", *(town.sample(Outcome.SUCCEEDED, ARMS[0], 0.1, START) for _ in range(3)))
    for name in "baa":
        await town.lives[name][0].pulse()
    assert (
        town.lives["a"][1].breakers.standing(ARMS[0].account, ARMS[0].model).state is State.CLOSED
    )


async def test_alone_there_is_nobody_to_tell_of_the_breakers(town: Town) -> None:
    await town.begin("a")
    await town.lives["a"][0].pulse()
    assert await SqliteReplicas(town.store).pulses() == []
