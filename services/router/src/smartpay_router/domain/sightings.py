"""What one replica saw of accounts' health, for the others: a small row, exchanged often.

Each number counts up from when its account began to be busy, so a row is always whole: read twice,
late, or not at all, it can be followed by any newer one (a state-based counter; Shapiro et al.,
"Conflict-free Replicated Data Types", 2011). Openings and closings go by the newest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any


@dataclass(slots=True)
class Tally:
    """What one replica counted of one account or processor; each number only adds up.

    Attributes:
        started: since when it counts, in seconds; another one began again from 0.
        technical: steps of the technical channel while closed, in nats.
        declines: steps of the declines channel while closed, in nats.
        outcomes: how many outcomes that were.
        successes: how many of them succeeded.
        proof: steps of probes while open, in straight successes.
        succeeded: probes that succeeded.
        failed: probes that failed.
        touched_at: when the latest outcome came, in seconds.
    """

    started: float = 0.0
    technical: float = 0.0
    declines: float = 0.0
    outcomes: int = 0
    successes: int = 0
    proof: float = 0.0
    succeeded: int = 0
    failed: int = 0
    touched_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """One account's or processor's health as one replica saw it.

    Attributes:
        model: the processor.
        account: the account; empty when this is about the processor itself.
        channel: the channel that opened it; empty while closed.
        changed_at: when it last opened or closed, in seconds; 0 when it never did.
        tally: what was counted.
    """

    model: str
    account: str
    channel: str
    changed_at: float
    tally: Tally


@dataclass(frozen=True, slots=True)
class Sightings:
    """A replica's row.

    Attributes:
        owner: which replica.
        epoch: which life of it.
        revision: counts rows within an epoch.
        lines: accounts and processors with outcomes lately, or open.
    """

    owner: str
    epoch: int
    revision: int
    lines: tuple[Sighting, ...]

    def encode(self) -> bytes:
        """Writes the row as JSON."""
        lines = [astuple(line) for line in self.lines]
        row = {"owner": self.owner, "epoch": self.epoch, "revision": self.revision, "lines": lines}
        return json.dumps(row, separators=(",", ":"), allow_nan=False).encode()

    @staticmethod
    def decode(data: bytes) -> Sightings:
        """Reads what `encode` wrote.

        Raises:
            ValueError: when the bytes are no such row.
        """
        try:
            row = json.loads(data)
            lines = tuple(_line(values) for values in row["lines"])
            return Sightings(str(row["owner"]), int(row["epoch"]), int(row["revision"]), lines)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("these bytes are no row of sightings") from error


def _line(values: Sequence[Any]) -> Sighting:
    model, account, channel, changed_at, counted = values
    tally = Tally(*(kind(value) for kind, value in zip(_KINDS, counted, strict=True)))
    return Sighting(str(model), str(account), str(channel), float(changed_at), tally)


_KINDS = [type(value) for value in astuple(Tally())]
