"""Learning from the log: each outcome once, in the log's order, now and after a restart alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple, Protocol

import numpy as np
import structlog

from smartpay_router.domain.breakers import Kind
from smartpay_router.domain.chargebacks import Losses, Tally, window
from smartpay_router.domain.learner import Arm
from smartpay_router.domain.outcome import Outcome, arm_of
from smartpay_router.domain.schema import Schema, Values

log = structlog.get_logger()

PATIENCE_SECONDS = 86_400.0
"""How long an outcome is waited for: payers may take an hour and recovery asks for some more;
what is unknown after a day is for a person to find out."""


WAITING_MAX = 20_000
"""Decisions that are waited for at once; beyond, the oldest is waited for no more. As many as the
learner's width counts; some 15 MB."""

PAGE_ROWS = 10_000
"""Rows read at once: some 5 MB, and learning them holds the loop some 40 ms."""

ROWS_TOGETHER_MIN = 64
"""From so many rows on it is cheaper to add them up first and to solve for the weights once."""

_KINDS = {outcome.value: outcome.kind for outcome in Outcome}
_REWARDS = {
    (outcome.value, several): outcome.reward(several_rails=bool(several))
    for outcome in Outcome
    for several in (0, 1)
}


class LoggedOutcomes(NamedTuple):
    """Rows of the log in their order, as columns, since a start reads a hundred thousand of them.

    Attributes:
        positions: places in the log, from 1.
        decision_ids: the decisions that were followed.
        is_final: whether the try has ended.
        accounts: the processor accounts that were tried.
        processors: their processors' names.
        livemode: the tenants' modes.
        outcomes: names of an Outcome.
        several_rails: whether the decision ranked accounts of several processors.
        heard_before: whether the breakers heard of the same try before.
        decided_at: when the decisions were made, in seconds since the epoch.
        at: when the outcomes were known, in seconds since the epoch.
        contexts: float64 values, little endian; None where a row has nothing to teach here.
    """

    positions: Sequence[int] = ()
    decision_ids: Sequence[str] = ()
    is_final: Sequence[int] = ()
    accounts: Sequence[str] = ()
    processors: Sequence[str] = ()
    livemode: Sequence[int] = ()
    outcomes: Sequence[str] = ()
    several_rails: Sequence[int] = ()
    heard_before: Sequence[int] = ()
    decided_at: Sequence[float] = ()
    at: Sequence[float] = ()
    contexts: Sequence[bytes | None] = ()

    def only(self, wanted: Sequence[object]) -> LoggedOutcomes:
        """Answers the rows for which something true stands at their place."""
        if all(wanted):
            return self
        columns: Iterable[Sequence[Any]] = self
        return LoggedOutcomes(*(list(compress(column, wanted)) for column in columns))


class OpenDecision(NamedTuple):
    """A decision whose first try has not ended, as stored."""

    decision_id: str
    arm: Arm
    decided_at: float
    schema: str
    context: bytes


class OutcomeLog(Protocol):
    """The durable log of outcomes; what was learned is a fold over it and nothing else."""

    async def after(self, position: int, owner: str, schema: str, rows_max: int) -> LoggedOutcomes:
        """Reads the next rows behind a position; contexts only of the owner's, of that schema.

        Fewer rows than asked for are the end of the log.
        """
        ...

    async def open_decisions(self, decided_after: float) -> Sequence[OpenDecision]:
        """Reads this replica's youngest decisions whose first try has not ended, oldest first.

        Answers at most WAITING_MAX.
        """
        ...

    async def give_up(self, decided_before: float) -> int:
        """Counts a bounded number of open decisions as missing; answers how many."""
        ...

    async def tallies(self, first_day: int, last_day: int) -> Mapping[str, Tally]:
        """Adds up what became of each model's charges within some days."""
        ...

    async def forget(self, decided_before: float, position: int) -> int:
        """Drops a bounded number of old rows up to a position; answers how many."""
        ...


class Waiting(Protocol):
    """The part of a learner that counts decisions whose outcome is still to come."""

    def pull(self, arm: Arm, values: Values, at: float) -> None:
        """Counts a decision."""
        ...

    def release(self, arm: Arm, values: Values, at: float) -> None:
        """Takes it back."""
        ...


class Settling(Protocol):
    """What takes outcomes in: the breakers, and behind them the learner."""

    def settle(
        self,
        arm: Arm,
        values: Values,
        kind: Kind | None,
        reward: float | None,
        decided_at: float,
        at: float,
        *,
        pulled: bool,
    ) -> None:
        """Takes one outcome in; see `settle_many`.

        Args:
            arm: the account tried.
            values: the context, shape [d].
            kind: see `settle_many`.
            reward: see `settle_many`.
            decided_at: see `settle_many`.
            at: see `settle_many`.
            pulled: whether the learner is to count one decision less that waits.
        """
        ...

    def settle_many(
        self,
        arms: Sequence[Arm],
        matrix: Values,
        kinds: Sequence[Kind | None],
        rewards: Sequence[float | None],
        decided_at: Sequence[float],
        at: Sequence[float],
    ) -> None:
        """Takes outcomes in, in order, as if one by one.

        Args:
            arms: the accounts tried.
            matrix: the contexts, shape [n, d].
            kinds: how the tries ended; None is not judged.
            rewards: 1 or 0; None is not learned.
            decided_at: when the decisions were made, in seconds.
            at: when the outcomes were known, in seconds.
        """
        ...


@dataclass
class Counts:
    """What became of decisions since the start.

    Attributes:
        waiting: decisions of this replica whose first outcome is still to come.
        learned: outcomes that taught something, or were held back by a breaker.
        missing: decisions whose outcome did not come in time.
        late: outcomes that came after that.
    """

    waiting: int = 0
    learned: int = 0
    missing: int = 0
    late: int = 0


class Learning:
    """Takes the log in, and keeps account of decisions that wait for their outcome.

    The same code runs at start and after every new outcome, so a restart ends in exactly the
    state that was lost. Call it from one event loop.

    Args:
        settling: breakers and learner.
        waiting: the learner's width.
        outcomes: the log.
        schema: the contexts that teach; rows of other schemas are passed over.
        owner: whose rows teach; of others' only the decisions they settle are noted.
        patience_seconds: how long an outcome is waited for.
        page_rows: how much of the log is read at once.
    """

    def __init__(
        self,
        settling: Settling,
        waiting: Waiting,
        outcomes: OutcomeLog,
        schema: Schema,
        owner: str,
        patience_seconds: float = PATIENCE_SECONDS,
        *,
        page_rows: int = PAGE_ROWS,
    ) -> None:
        self._settling = settling
        self._waiting = waiting
        self._log = outcomes
        self._schema = schema
        self._owner = owner
        self._patience = patience_seconds
        self._page_rows = page_rows
        self._pulls: dict[str, tuple[Arm, Values, float]] = {}
        self._turn = asyncio.Lock()
        self._asked = self._answered = 0
        self._counts = Counts()
        self._taught = asyncio.Event()
        self.position = 0
        self.losses = Losses()

    @property
    def counts(self) -> Counts:
        """What became of decisions since the start."""
        self._counts.waiting = len(self._pulls)
        return self._counts

    async def catch_up(self) -> int:
        """Takes in what the log holds beyond the last position; answers how many rows taught.

        Callers that wait for their turn together are served by one reading.
        """
        self._asked += 1
        mine = self._asked
        learned = 0
        async with self._turn:
            if self._answered >= mine:
                return 0
            asked, more = self._asked, True
            while more:
                page = await self._log.after(
                    self.position, self._owner, self._schema.name, self._page_rows
                )
                learned += self._take(page) if page.positions else 0
                more = len(page.positions) == self._page_rows
            self._answered = asked
        return learned

    async def lesson(self) -> None:
        """Waits until outcomes were taken in that teach."""
        await self._taught.wait()

    def opened(self, decision_id: str, arm: Arm, values: Sequence[float], at: float) -> None:
        """Notes that the outcome of a durable decision, already pulled, is now waited for."""
        self._pulls[decision_id] = (arm, np.asarray(values, dtype=np.float64), at)
        if len(self._pulls) > WAITING_MAX:
            self._waiting.release(*self._pulls.pop(next(iter(self._pulls))))

    def dropped(self, arm: Arm, values: Sequence[float], at: float) -> None:
        """Takes a pull back whose decision was not stored, or not followed."""
        self._waiting.release(arm, np.asarray(values, dtype=np.float64), at)

    async def remember_open(self, at: float) -> int:
        """Pulls again for the decisions that were open when the process ended; once, at start."""
        for found in await self._log.open_decisions(at - self._patience):
            if found.schema != self._schema.name or found.decision_id in self._pulls:
                continue
            try:
                values = self._schema.checked(np.frombuffer(found.context, dtype="<f8"))
            except ValueError as error:
                log.error("decision not waited for", id=found.decision_id, cause=str(error))
                continue
            self._waiting.pull(found.arm, values, found.decided_at)
            self._pulls[found.decision_id] = (found.arm, values, found.decided_at)
        return len(self._pulls)

    async def sweep(self, at: float) -> None:
        """Gives up waiting for what is overdue, and reads anew what chargebacks take back."""
        overdue = at - self._patience
        # Oldest first, as they were opened; clocks of two replicas never meet in this table.
        for decision_id, (arm, values, decided_at) in list(self._pulls.items()):
            if decided_at >= overdue:
                break
            del self._pulls[decision_id]
            self._waiting.release(arm, values, decided_at)
        while given_up := await self._log.give_up(overdue):
            self._counts.missing += given_up
        self.losses.refresh(await self._log.tallies(*window(at)))

    def _take(self, page: LoggedOutcomes) -> int:
        taught = page.only(page.contexts)
        try:
            matrix = self._matrix(taught.contexts)
        except ValueError:
            taught = taught.only([*map(self._is_sound, taught.positions, taught.contexts)])
            matrix = self._matrix(taught.contexts)
        if taught.positions:
            self._teach(taught, matrix)
        for decision_id in compress(page.decision_ids, page.is_final):
            if (pull := self._pulls.pop(decision_id, None)) is not None:
                self._waiting.release(*pull)
        self.position = page.positions[-1]
        return len(taught.positions)

    def _teach(self, rows: LoggedOutcomes, matrix: Values) -> None:
        named = _Arms()
        lessons = (
            [named[key] for key in zip(rows.accounts, rows.processors, rows.livemode, strict=True)],
            matrix,
            [
                None if heard else _KINDS[outcome]
                for outcome, heard in zip(rows.outcomes, rows.heard_before, strict=True)
            ],
            [_REWARDS[key] for key in zip(rows.outcomes, rows.several_rails, strict=True)],
            rows.decided_at,
            rows.at,
        )
        if len(matrix) < ROWS_TOGETHER_MIN:
            for lesson in zip(*lessons, strict=True):
                self._settling.settle(*lesson, pulled=False)
        else:
            self._settling.settle_many(*lessons)
        self._counts.learned += len(matrix)
        delays = np.subtract(rows.at, rows.decided_at)
        self._counts.late += int(np.count_nonzero(delays > self._patience))
        # Whoever waits now is woken, and whoever asks from now on waits for the next.
        self._taught.set()
        self._taught.clear()

    def _matrix(self, contexts: Sequence[bytes | None]) -> Values:
        """Reads some contexts, shape [n, d]; raises ValueError when one is damaged."""
        flat = np.frombuffer(b"".join(filter(None, contexts)), dtype="<f8")
        rows = flat.reshape(len(contexts), len(self._schema.features))
        return self._schema.checked_many(rows.astype(np.float64, copy=False))

    def _is_sound(self, position: int, context: bytes | None) -> bool:
        """Tells whether a row can teach; one that was damaged on the disk must not end it all."""
        try:
            self._matrix([context])
        except ValueError as error:
            log.error("outcome not learned", position=position, cause=str(error))
            return False
        return True


class _Arms(dict[tuple[str, str, int], Arm]):
    """Makes each arm of a page once."""

    def __missing__(self, key: tuple[str, str, int]) -> Arm:
        account, processor, livemode = key
        arm = self[key] = arm_of(account, processor, livemode=bool(livemode))
        return arm
