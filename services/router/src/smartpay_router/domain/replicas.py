"""Replicas: each publishes what it alone has learned, reads what the others have, and adds it up.

A replica's published state is also its snapshot: after a crash it goes on from there and from the
log behind it. State-based sums need no lock and no order (Shapiro et al. 2011, "Conflict-free
Replicated Data Types"): a row replaces the same owner's older row and is never added to.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from smartpay_router.domain.breakers import Breakers
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.sightings import Sighting, Sightings
from smartpay_router.domain.steering import Steering
from smartpay_router.domain.totals import Totals, merged

log = structlog.get_logger()

SIGN_OF_LIFE_SECONDS = 30.0
"""How often a replica that learned nothing new publishes all the same; far below the silence for
which one is retired."""

BASE = "base"
"""The owner of all that was learned by replicas that are gone for good."""


class FencedError(Exception):
    """Another process has taken this replica's name, or retired it; this one must stop."""


@dataclass(frozen=True)
class ReplicaState:
    """What one replica has learned by itself, as of a place in the log.

    Attributes:
        owner: the replica's name.
        epoch: counts the replica's lives; only the latest may write.
        position: all its rows up to here are in the totals.
        seen_at: when it was published, in seconds since the epoch of UTC.
        totals: `Totals.encode`.
        breakers: `Steering.state`, which rows behind `position` depend on.
    """

    owner: str
    epoch: int
    position: int
    seen_at: float
    totals: bytes
    breakers: bytes


@dataclass(frozen=True)
class Pulse:
    """The breakers' evidence of one replica; small, so that it can be told at once.

    Attributes:
        owner: the replica's name.
        epoch: the replica's life.
        sequence: counts the pulses of an epoch.
        evidence: `Sightings.encode`.
    """

    owner: str
    epoch: int
    sequence: int
    evidence: bytes


class ReplicaStates(Protocol):
    """Where replicas meet: one row per owner, written by nobody else."""

    async def join(self, owner: str) -> int:
        """Begins a life of a replica: answers its epoch, and shuts out all earlier ones."""
        ...

    async def put(self, state: ReplicaState) -> None:
        """Publishes a state in place of the owner's last.

        Raises:
            FencedError: when a later epoch has begun, or the stored state is further on.
        """
        ...

    async def states(self) -> Sequence[ReplicaState]:
        """Reads all states as of one moment, in the order of their owners."""
        ...

    async def pulse(self, pulse: Pulse) -> None:
        """Publishes evidence in place of the owner's last; raises FencedError as `put` does."""
        ...

    async def pulses(self) -> Sequence[Pulse]:
        """Reads the latest evidence of all, in the order of their owners."""
        ...

    async def retire(self, gone: ReplicaState, base: ReplicaState) -> None:
        """Puts a base that contains a replica's state in place of both, in one transaction.

        The rows of the log that are in the state are the base's from then on.

        Raises:
            FencedError: when either's epoch is not the latest; nothing was changed then.
        """
        ...


class Mind(NamedTuple):
    """What learns: the sums, the breakers that guard them, and the log's reader."""

    learner: LinUcb
    breakers: Breakers
    steering: Steering
    learning: Learning


def outweighs(news: int, known: int, replicas: int) -> bool:
    """Tells whether all replicas together have probably learned as much again as one knows.

    News are then worth an exchange before its time: replicas that know little would each make the
    same mistakes. Knowledge doubles in between, so there are only logarithmically many such
    exchanges (the rule of Abbasi-Yadkori et al. 2011, section 5.1, and of Wang et al. 2020,
    "Distributed Bandit Learning", with outcomes in place of determinants).

    Args:
        news: outcomes learned here since the last exchange.
        known: outcomes that were known then, those of others included.
        replicas: how many there are; payments go to all of them alike.
    """
    return news > 0 and news * replicas >= known


class Replica:
    """This process as one of several; with nobody else there it only keeps snapshots.

    Args:
        owner: the replica's name, unique among those that live.
        states: where replicas meet.
        conceive: makes an empty mind for an owner and epoch, so that also what somebody else
            logged can be learned here.
        clock: answers the present, in seconds since the epoch of UTC.

    Raises:
        ValueError: when the name is the base's.
    """

    def __init__(
        self,
        owner: str,
        states: ReplicaStates,
        conceive: Callable[[str, int], Mind],
        clock: Callable[[], float],
    ) -> None:
        if owner == BASE:
            raise ValueError(f"a replica can't be called {BASE}")
        self._owner = owner
        self._states = states
        self._conceive = conceive
        self._clock = clock
        self._mind = conceive(owner, 0)
        self._kin = _kin(self._mind.learner.totals())
        self._epoch = self._pulses = 0
        self._seen_at = -math.inf
        self._known = 0  # outcomes, as of the last exchange
        self._told: tuple[Sighting, ...] | None = None
        self._unheard: set[tuple[str, int]] = set()
        self._others: dict[str, tuple[ReplicaState, Totals]] = {}
        self.published_position = 0
        """All rows of this replica up to here are in its stored state."""

    async def join(self) -> Mind:
        """Begins a life: goes on from the last snapshot, and learns the log behind it.

        Raises:
            FencedError: a process of the same name began at the same time.
        """
        self._epoch, self._seen_at = await self._states.join(self._owner), -math.inf
        found = await self._found()
        self._mind = await self._recalled(self._owner, self._epoch, found.get(self._owner))
        base = found.get(BASE)
        if base is not None and self._read(base) is None:
            await self._relearn_base()
        await self.exchange()
        return self._mind

    async def exchange(self) -> None:
        """Publishes what was learned here, and takes in what the others have.

        Raises:
            FencedError: this process must stop.
        """
        position, now = self._mind.learning.position, self._clock()
        if position != self.published_position or now >= self._seen_at + SIGN_OF_LIFE_SECONDS:
            news = await self._state(self._owner, self._epoch, self._mind)
            await self._states.put(news)
            self.published_position, self._seen_at = news.position, news.seen_at
        found = await self._found()
        mine = found.pop(self._owner, None)
        if mine is None or mine.epoch != self._epoch:
            raise FencedError
        known, self._others = self._others, {}
        for owner, state in found.items():
            before = known.get(owner)
            if before is not None and before[0] == state:
                self._others[owner] = before
            elif (totals := await asyncio.to_thread(self._read, state)) is not None:
                self._others[owner] = (state, totals)
        if self._others != known:
            self._mind.learner.share(totals for _, totals in self._others.values())
        self._known = self._mind.learner.outcomes

    async def news(self) -> None:
        """Waits until so much was learned here that an exchange should not wait for its time."""
        replicas = 1 + len(self._others.keys() - {BASE})
        while not outweighs(self._mind.learner.outcomes - self._known, self._known, replicas):
            await self._mind.learning.lesson()

    async def pulse(self) -> None:
        """Tells the others what the breakers heard here, and hears what theirs did.

        Breakers that only heard of their own replica's payments would lose as many more of them
        as there are replicas.

        Raises:
            FencedError: this process must stop.
        """
        if not self._others.keys() - {BASE}:
            return
        seen = self._mind.breakers.share(self._clock())
        if seen.lines != self._told:
            self._told = seen.lines
            self._pulses += 1
            pulse = Pulse(self._owner, self._epoch, self._pulses, seen.encode())
            await self._states.pulse(pulse)
        others = [p for p in await self._states.pulses() if p.owner != self._owner]
        self._mind.breakers.take(
            news for pulse in others if (news := self._heard(pulse)) is not None
        )

    def _heard(self, pulse: Pulse) -> Sightings | None:
        """Reads a pulse; None for one that a release with another format has written."""
        life = (pulse.owner, pulse.epoch)
        if life in self._unheard:
            return None
        try:
            return Sightings.decode(pulse.evidence)
        except ValueError as error:
            self._unheard.add(life)
            log.error("pulse of a replica not read", owner=pulse.owner, cause=str(error))
            return None

    async def retire_the_gone(self, silent_seconds: float) -> list[str]:
        """Adds to the base what replicas learned that have been silent; answers their names.

        Nothing is lost when one of them only slept: it is shut out, starts again and learns on.
        What its breakers held back in an undecided suspicion is dropped, as in an outage.

        Args:
            silent_seconds: how long ago their last sign of life was, at least.
        """
        overdue = self._clock() - silent_seconds
        retired = []
        for owner, state in (await self._found()).items():
            if owner in (self._owner, BASE) or state.seen_at >= overdue:
                continue
            try:
                await self._retire(owner)
            except FencedError:
                continue  # it came back, or somebody else was faster
            retired.append(owner)
            log.info("replica retired", owner=owner)
        if retired:
            await self.exchange()
        return retired

    async def _retire(self, owner: str) -> None:
        epoch = await self._states.join(owner)
        base_epoch = await self._states.join(BASE)
        found = await self._found()
        mind = await self._recalled(owner, epoch, found.get(owner))
        parts = [mind.learner.totals()]
        if (base := found.get(BASE)) is not None:
            known = self._read(base)
            if known is None:
                await self._relearn_base()
                raise FencedError
            parts.append(known)
        whole = merged(parts, owner=BASE, epoch=base_epoch).encode()
        gone = await self._state(owner, epoch, mind)
        await self._states.retire(
            gone, ReplicaState(BASE, base_epoch, gone.position, gone.seen_at, whole, b"")
        )

    async def _relearn_base(self) -> None:
        """Learns anew, under this release's schema, what the log holds of those that are gone."""
        epoch = await self._states.join(BASE)
        mind = await self._recalled(BASE, epoch, None)
        with contextlib.suppress(FencedError):  # another replica does the same
            await self._states.put(await self._state(BASE, epoch, mind))

    async def _recalled(self, owner: str, epoch: int, state: ReplicaState | None) -> Mind:
        """Makes a mind that knows all that an owner has logged.

        A snapshot that can't be read, or is of another schema, is dropped: the log has it all.
        """
        mind = self._conceive(owner, epoch)
        if state is not None and (totals := self._read(state)) is not None:
            try:
                mind.steering.restore(state.breakers)
            except ValueError as error:
                log.error("state of a replica dropped", owner=owner, cause=str(error))
            else:
                mind.learner.resume(totals)
                mind.learning.position = state.position
        learned = await mind.learning.catch_up()
        log.info("replayed", owner=owner, epoch=epoch, outcomes=learned)
        return mind

    async def _state(self, owner: str, epoch: int, mind: Mind) -> ReplicaState:
        # Without a pause in between: all three are of one place in the log.
        position, totals, breakers = (
            mind.learning.position,
            mind.learner.totals(),
            mind.steering.state(),
        )
        # With thousands of accounts that takes long enough to be felt by calls.
        encoded = await asyncio.to_thread(totals.encode)
        return ReplicaState(owner, epoch, position, self._clock(), encoded, breakers)

    async def _found(self) -> dict[str, ReplicaState]:
        return {state.owner: state for state in await self._states.states()}

    def _read(self, state: ReplicaState) -> Totals | None:
        """Reads a state's totals; None when they are damaged or can't be added to the learner's."""
        try:
            totals = Totals.decode(state.totals)
        except ValueError as error:
            log.error("state of a replica dropped", owner=state.owner, cause=str(error))
            return None
        return totals if _kin(totals) == self._kin else None


def _kin(totals: Totals) -> tuple[str, float]:
    """Names what totals must have in common to be added up."""
    return totals.schema_key, totals.memory_seconds
