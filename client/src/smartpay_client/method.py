"""What the contract says of one method; the table itself is generated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Idempotency(StrEnum):
    """Whether a call may be repeated after a lost answer: protobuf's idempotency_level."""

    IDEMPOTENCY_UNKNOWN = "IDEMPOTENCY_UNKNOWN"
    NO_SIDE_EFFECTS = "NO_SIDE_EFFECTS"
    IDEMPOTENT = "IDEMPOTENT"


@dataclass(frozen=True)
class Method:
    """One method over REST.

    Attributes:
        name: the rpc.
        verb: of HTTP.
        path: with the path's variables in braces.
        idempotency: whether it may be repeated.
        deadline_seconds: what the edge allows one try.
        needs_key: money moves or something new is made, so that an Idempotency-Key is asked for.
    """

    name: str
    verb: str
    path: str
    idempotency: Idempotency
    deadline_seconds: float
    needs_key: bool

    @property
    def path_variables(self) -> list[str]:
        """Names the fields that stand in the path."""
        return re.findall(r"\{(\w+)\}", self.path)

    @property
    def may_repeat(self) -> bool:
        """Tells whether a try whose end is unknown may be made again."""
        return self.idempotency is not Idempotency.IDEMPOTENCY_UNKNOWN
