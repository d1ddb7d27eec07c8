"""What became of a try, and what it teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from smartpay_router.domain.context import Context
from smartpay_router.domain.linucb import Policy


class Outcome(StrEnum):
    """How one try ended, as far as the account can be credited or blamed for it."""

    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"
    TECHNICAL_FAILURE = "TECHNICAL_FAILURE"
    ABANDONED = "ABANDONED"

    def reward(self) -> float | None:
        """Answers what the learner is told: 1 or 0, or None when the account had no part in it.

        A payer who walks away says nothing about the account: the payer chose the rail.
        """
        return _REWARDS[self]


_REWARDS = {
    Outcome.SUCCEEDED: 1.0,
    Outcome.DECLINED: 0.0,
    Outcome.TECHNICAL_FAILURE: 0.0,
    Outcome.ABANDONED: None,
}


@dataclass(frozen=True)
class Sample:
    """One try of one decision; (decision_id, attempt_index) makes it the same try again."""

    decision_id: str
    attempt_index: int
    merchant_id: str
    livemode: bool
    processor_account_id: str
    outcome: Outcome
    context: Context


class OutcomeLog(Protocol):
    """The durable log of outcomes; what was learned is a fold over it and nothing else."""

    async def after(self, position: int) -> Sequence[tuple[int, Sample]]:
        """Reads the next samples behind a position, oldest first, with their own positions.

        Answers a page of bounded size; empty at the end of the log.
        """
        ...


class Learner:
    """Teaches the policy each logged outcome once, in the order of the log.

    The same code runs at start and after every new outcome, so a restart ends in exactly the
    state that was lost.
    """

    def __init__(self, policy: Policy, log: OutcomeLog) -> None:
        self._policy = policy
        self._log = log
        self._position = 0

    async def catch_up(self) -> int:
        """Learns what the log holds beyond the last position; answers how many were new.

        Safe to call at the same time from several tasks: a page that another call has learned
        meanwhile is passed over.
        """
        learned = 0
        while page := await self._log.after(self._position):
            for position, sample in page:
                if position <= self._position:
                    continue
                self._position = position
                reward = sample.outcome.reward()
                if reward is not None and sample.context.is_current():
                    self._policy.learn(sample.processor_account_id, sample.context, reward)
                    learned += 1
        return learned
