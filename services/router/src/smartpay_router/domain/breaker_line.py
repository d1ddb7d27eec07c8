"""What one breaker knows: the sums of one account, or of one processor over all its accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smartpay_router.domain.sightings import Tally


@dataclass(slots=True)
class Line:
    """One account's or processor's sums; a processor's rate is the start of its new accounts'.

    Attributes:
        rate: healthy success.
        weight: how many outcomes the rate stands for.
        rate_at_zero: the rate when the sums last were 0, which an outage falls back to.
        outcomes: how many outcomes were judged.
        technical: sum in nats, never below 0.
        declines: sum in nats, never below 0.
        channel: the channel that opened it; empty while closed.
        changed_at: when it last opened or closed.
        proof: straight successes of probes, less what failures took back.
        succeeded: probes that succeeded since it opened.
        failed: probes that failed since it opened.
        technical_of: what each account brought to `technical`; of a processor only.
        declines_of: what each account brought to `declines`; of a processor only.
        reset_at: the processor's last change that this account has followed.
        tally: what this replica itself counted.
    """

    rate: float
    weight: float
    rate_at_zero: float
    outcomes: int = 0
    technical: float = 0.0
    declines: float = 0.0
    channel: str = ""
    changed_at: float = 0.0
    proof: float = 0.0
    succeeded: int = 0
    failed: int = 0
    technical_of: dict[str, float] = field(default_factory=dict)
    declines_of: dict[str, float] = field(default_factory=dict)
    reset_at: float = 0.0
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Line:
        """Reads what `dataclasses.asdict` made of a line.

        Raises:
            KeyError: when the tally is missing.
            TypeError: when a value is missing or unknown.
        """
        return cls(**{**values, "tally": Tally(**values["tally"])})

    def quiet(self) -> bool:
        """Tells whether no evidence of an outage is standing."""
        return self.technical == 0.0 == self.declines

    def calm(self) -> None:
        """Drops all evidence of an outage."""
        self.technical = self.declines = self.proof = 0.0
        self.succeeded = self.failed = 0
        self.technical_of.clear()
        self.declines_of.clear()

    def change(self, channel: str, at: float) -> None:
        """Opens by a channel, or closes by an empty one; health is what it was before."""
        self.calm()
        self.rate = self.rate_at_zero
        self.channel = channel
        self.changed_at = at

    def learn(self, successes: int, outcomes: int, memory_outcomes: float) -> None:
        """Moves the healthy rate, which averages over so many outcomes at most."""
        weight = self.weight
        self.rate = rate = (self.rate * weight + successes) / (weight + outcomes)
        weight += outcomes
        self.weight = weight if weight < memory_outcomes else memory_outcomes
        if self.technical == 0.0 == self.declines:
            self.rate_at_zero = rate


def brought(total: float, shares: dict[str, float], account: str, step: float, cap: float) -> float:
    """Adds one account's step to a sum of capped shares; at 0 all shares begin anew."""
    before = shares.get(account, 0.0)
    shares[account] = after = before + step
    total += (after if after < cap else cap) - (before if before < cap else cap)
    if total > 0:
        return total
    shares.clear()
    return 0.0
