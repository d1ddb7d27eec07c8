"""What became of a try, and what it teaches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from smartpay_router.domain.breakers import Kind
from smartpay_router.domain.context import Context
from smartpay_router.domain.learner import Arm


class Outcome(StrEnum):
    """How one try ended, as far as the account can be credited or blamed for it."""

    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"
    TECHNICAL_FAILURE = "TECHNICAL_FAILURE"
    FRAUD = "FRAUD"
    ABANDONED = "ABANDONED"
    UNANSWERED = "UNANSWERED"

    @property
    def is_final(self) -> bool:
        """Tells whether the try has ended: of one that nobody answered the end may still come."""
        return self is not Outcome.UNANSWERED

    def reward(self, *, several_rails: bool) -> float | None:
        """Answers what the learner is told: 1 or 0, or None when the try tells nothing.

        A payer who walks away is a lost sale when another rail could have been offered first;
        when the instrument fixed the rail, the account had no part in it. A try refused as fraud
        is no failure: else the router would come to love the account that lets fraud through.

        Args:
            several_rails: whether the decision ranked accounts of two processors or more.
        """
        if self is Outcome.ABANDONED:
            return 0.0 if several_rails else None
        return _REWARDS.get(self)

    @property
    def kind(self) -> Kind | None:
        """Answers what a breaker is told; None when it says nothing of the account's health."""
        return _KINDS.get(self)


_REWARDS = {Outcome.SUCCEEDED: 1.0, Outcome.DECLINED: 0.0, Outcome.TECHNICAL_FAILURE: 0.0}
_KINDS = {
    Outcome.SUCCEEDED: Kind.SUCCESS,
    Outcome.DECLINED: Kind.DECLINE,
    Outcome.TECHNICAL_FAILURE: Kind.TECHNICAL,
    # Most outages show as silence first; a breaker that waited for the end would be late.
    Outcome.UNANSWERED: Kind.TECHNICAL,
}


@dataclass(frozen=True)
class Sample:
    """One try of one decision; (decision_id, attempt_index) makes it the same try again.

    Attributes:
        decision_id: the decision that was followed.
        attempt_index: which try of it, from 0.
        merchant_id: the tenant.
        livemode: the tenant's mode.
        processor_account_id: the account that was tried.
        processor: its processor's name, for instance "stripe".
        outcome: how it ended.
        several_rails: whether the decision ranked accounts of two processors or more.
        context: what the learner saw of this try.
        decided_at: when the decision was made, in seconds since the epoch.
        at: when the outcome was known, in seconds since the epoch.
    """

    decision_id: str
    attempt_index: int
    merchant_id: str
    livemode: bool
    processor_account_id: str
    processor: str
    outcome: Outcome
    several_rails: bool
    context: Context
    decided_at: float
    at: float

    @property
    def arm(self) -> Arm:
        """The account with the model that its outcomes teach."""
        return arm_of(self.processor_account_id, self.processor, livemode=self.livemode)

    def reward(self) -> float | None:
        """Answers what the learner is told of this try."""
        return self.outcome.reward(several_rails=self.several_rails)


def arm_of(processor_account_id: str, processor: str, *, livemode: bool) -> Arm:
    """Names the arm of an account: outcomes of a processor teach about it in that mode.

    What is special about the one account is the learner's residual; test payments say nothing
    about live ones.
    """
    return Arm(processor_account_id, f"{'live' if livemode else 'test'}/{processor}")
