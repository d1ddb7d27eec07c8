"""What every store where replicas meet must do; a new adapter joins by one line in `states`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.replicas import BASE, FencedError, Pulse, ReplicaState, ReplicaStates


class MemoryReplicas:
    """The port in memory: the contract in its plainest words."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}
        self.stored: dict[str, ReplicaState] = {}
        self.told: dict[str, Pulse] = {}

    async def join(self, owner: str) -> int:
        self.epochs[owner] = self.epochs.get(owner, 0) + 1
        return self.epochs[owner]

    async def put(self, state: ReplicaState) -> None:
        self._check(state)
        known = self.stored.get(state.owner)
        if known and known.epoch == state.epoch and known.position > state.position:
            raise FencedError
        self.stored[state.owner] = state

    async def states(self) -> Sequence[ReplicaState]:
        return [self.stored[owner] for owner in sorted(self.stored)]

    async def pulse(self, pulse: Pulse) -> None:
        self._check(pulse)
        self.told[pulse.owner] = pulse

    async def pulses(self) -> Sequence[Pulse]:
        return [self.told[owner] for owner in sorted(self.told)]

    async def retire(self, gone: ReplicaState, base: ReplicaState) -> None:
        self._check(gone)
        self._check(base)
        self.stored.pop(gone.owner, None)
        self.told.pop(gone.owner, None)
        self.stored[base.owner] = base

    def _check(self, told: ReplicaState | Pulse) -> None:
        if self.epochs.get(told.owner) != told.epoch:
            raise FencedError


@pytest.fixture(params=["sqlite", "memory"])
async def states(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReplicaStates]:
    if request.param == "memory":
        yield MemoryReplicas()
        return
    store = await SqliteStore.open(tmp_path / "router.db", MIGRATIONS)
    yield SqliteReplicas(store)
    await store.close()


def state(owner: str, epoch: int, position: int = 7) -> ReplicaState:
    return ReplicaState(owner, epoch, position, 1.5, f"{owner}-{epoch}".encode(), b"breakers")


async def test_each_life_of_a_replica_has_a_higher_epoch(states: ReplicaStates) -> None:
    assert [await states.join("a"), await states.join("a"), await states.join("b")] == [1, 2, 1]


async def test_a_state_replaces_the_owners_last_and_nobody_elses(states: ReplicaStates) -> None:
    a, b = await states.join("a"), await states.join("b")
    await states.put(state("b", b))
    await states.put(state("a", a))
    newer = state("a", a, position=9)
    await states.put(newer)
    await states.put(newer)
    assert await states.states() == [newer, state("b", b)]


async def test_an_earlier_life_of_a_replica_can_publish_nothing_any_more(
    states: ReplicaStates,
) -> None:
    old = await states.join("a")
    await states.put(state("a", old))
    await states.pulse(Pulse("a", old, 1, b"old"))
    new = await states.join("a")
    with pytest.raises(FencedError):
        await states.put(state("a", old, position=99))
    with pytest.raises(FencedError):
        await states.pulse(Pulse("a", old, 2, b"older"))
    assert await states.states() == [state("a", old)]
    # A snapshot of another schema was dropped: the new life may begin before where the old was.
    await states.put(state("a", new, position=0))
    assert await states.states() == [state("a", new, position=0)]


async def test_a_replica_that_never_joined_can_publish_nothing(states: ReplicaStates) -> None:
    with pytest.raises(FencedError):
        await states.put(state("stranger", 1))
    assert await states.states() == []


async def test_within_a_life_a_state_never_falls_back(states: ReplicaStates) -> None:
    epoch = await states.join("a")
    await states.put(state("a", epoch, position=9))
    with pytest.raises(FencedError):
        await states.put(state("a", epoch, position=8))
    assert await states.states() == [state("a", epoch, position=9)]


async def test_the_latest_pulse_of_each_is_read(states: ReplicaStates) -> None:
    a, b = await states.join("a"), await states.join("b")
    for pulse in (Pulse("b", b, 1, b"b1"), Pulse("a", a, 1, b"a1"), Pulse("a", a, 2, b"a2")):
        await states.pulse(pulse)
    assert await states.pulses() == [Pulse("a", a, 2, b"a2"), Pulse("b", b, 1, b"b1")]


async def test_a_retired_replicas_rows_go_and_the_base_stands_in_one_step(
    states: ReplicaStates,
) -> None:
    a = await states.join("a")
    await states.put(state("a", a))
    await states.pulse(Pulse("a", a, 1, b"a1"))
    base = state(BASE, await states.join(BASE))
    await states.retire(state("a", a), base)
    assert await states.states() == [base]
    assert await states.pulses() == []


@pytest.mark.parametrize("moved_on", ["a", BASE])
async def test_nothing_is_retired_when_either_side_has_moved_on(
    states: ReplicaStates, moved_on: str
) -> None:
    a, base = await states.join("a"), await states.join(BASE)
    await states.put(state("a", a))
    await states.join(moved_on)
    with pytest.raises(FencedError):
        await states.retire(state("a", a), state(BASE, base))
    assert await states.states() == [state("a", a)]


async def test_a_state_comes_back_byte_by_byte(states: ReplicaStates) -> None:
    epoch = await states.join("a")
    raw = bytes(range(256))
    stored = replace(state("a", epoch), totals=raw, breakers=raw[::-1], seen_at=1.7e9 + 0.123)
    await states.put(stored)
    assert await states.states() == [stored]
