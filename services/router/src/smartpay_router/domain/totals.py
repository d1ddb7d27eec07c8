"""What one replica has learned, as sums that any other replica can add to its own.

Every outcome weighs e^((t - L) / tau): t is when its decision was made, L a landmark that all
sums of one total share (forward decay; Cormode et al., ICDE 2009). Sums of different landmarks
differ by one factor, so totals add up exactly whatever order outcomes came in. Each replica
publishes its own total, always whole: taking it twice, late or out of order changes nothing
(a state-based counter; Shapiro et al., "Conflict-free Replicated Data Types", 2011).
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from smartpay_router.domain.schema import Values

ENCODED_BYTES_MAX = 64 * 1024 * 1024
"""What a decoded total may take: some 200,000 accounts. A damaged length must not fill memory."""

_MAGIC = b"SPT1"
_HEADER = struct.Struct("<4sI")


class Sum(NamedTuple):
    """Weighted sums over outcomes with features x, reward r and z = (x, r).

    Attributes:
        values: a model's sum of w x z', shape [d, d + 1]; an account's sum of w z, shape [d + 1],
            which is the first row of the same, since x begins with 1.
        outcomes: how many were summed, unweighted.
    """

    values: Values
    outcomes: int


@dataclass(frozen=True, eq=False)
class Totals:
    """All that one owner has learned.

    Attributes:
        schema_key: what the features mean.
        memory_seconds: tau of the weights.
        owner: which replica learned it.
        epoch: which life of the replica; a later one replaces all earlier ones.
        revision: counts changes within an epoch; of two totals the later one replaces the other.
        landmark: the time whose outcomes weigh 1, in seconds since the epoch of UTC.
        models: per model key.
        accounts: per processor account.
    """

    schema_key: str
    memory_seconds: float
    owner: str
    epoch: int
    revision: int
    landmark: float
    models: Mapping[str, Sum]
    accounts: Mapping[str, Sum]

    @property
    def outcomes(self) -> int:
        """How many outcomes were learned."""
        return sum(model.outcomes for model in self.models.values())

    def encode(self) -> bytes:
        """Answers the same bytes for the same total; of a symmetric sum only one half is kept."""
        arrays = [
            *(_halved(self.models[key].values) for key in sorted(self.models)),
            *(self.accounts[key].values for key in sorted(self.accounts)),
        ]
        header = json.dumps(
            {
                "schema_key": self.schema_key,
                "memory_seconds": self.memory_seconds,
                "owner": self.owner,
                "epoch": self.epoch,
                "revision": self.revision,
                "landmark": self.landmark,
                "width": _width(self),
                "models": [[key, self.models[key].outcomes] for key in sorted(self.models)],
                "accounts": [[key, self.accounts[key].outcomes] for key in sorted(self.accounts)],
            }
        ).encode()
        body = b"".join(array.astype("<f8").tobytes() for array in arrays)
        return _HEADER.pack(_MAGIC, len(header)) + zlib.compress(header + body, 1)

    @staticmethod
    def decode(data: bytes) -> Totals:
        """Reads what `encode` wrote.

        Raises:
            ValueError: when the bytes are of another format, incomplete or damaged.
        """
        try:
            return _decoded(data)
        except (struct.error, zlib.error, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these bytes are no total of what was learned: {error}") from error


def merged(totals: Iterable[Totals], owner: str = "all", epoch: int = 0) -> Totals:
    """Adds up the newest total of each owner; any order, duplicates and old ones change nothing.

    Args:
        totals: at least one; all of one schema and memory.
        owner: who owns the answer. To retire a replica, its total is merged into the one that
            stands for all retired ones, under that one's name and next epoch.
        epoch: of the answer.

    Raises:
        ValueError: when there is none, or they do not belong together.
    """
    newest: dict[str, Totals] = {}
    for total in totals:
        known = newest.get(total.owner)
        if known is None or (known.epoch, known.revision) < (total.epoch, total.revision):
            newest[total.owner] = total
    if not newest:
        raise ValueError("there is nothing to merge")
    parts = [newest[name] for name in sorted(newest)]  # one order, so the same sums to the bit
    if len({(part.schema_key, part.memory_seconds) for part in parts}) > 1:
        raise ValueError("totals of different schemas or memories do not add up")
    landmark = max(part.landmark for part in parts)
    factors = [math.exp((part.landmark - landmark) / part.memory_seconds) for part in parts]
    return Totals(
        schema_key=parts[0].schema_key,
        memory_seconds=parts[0].memory_seconds,
        owner=owner,
        epoch=epoch,
        revision=sum(part.revision for part in parts),
        landmark=landmark,
        models=_added([part.models for part in parts], factors),
        accounts=_added([part.accounts for part in parts], factors),
    )


def _added(parts: list[Mapping[str, Sum]], factors: list[float]) -> dict[str, Sum]:
    values: dict[str, Values] = {}
    outcomes: Counter[str] = Counter()
    for part, factor in zip(parts, factors, strict=True):
        for key, addend in part.items():
            if key in values:
                values[key] += addend.values * factor
            else:
                values[key] = addend.values * factor
            outcomes[key] += addend.outcomes
    return {key: Sum(sums, outcomes[key]) for key, sums in values.items()}


def _width(totals: Totals) -> int:
    for part in (totals.models, totals.accounts):
        for held in part.values():
            return int(held.values.shape[-1]) - 1
    return 0


def _halved(values: Values) -> Values:
    """Takes the upper triangle of [d, d + 1]; the reward's column stands right of it."""
    return values[np.triu_indices(values.shape[0], m=values.shape[1])]


def _whole(half: Values, width: int) -> Values:
    values = np.zeros((width, width + 1))
    values[np.triu_indices(width, m=width + 1)] = half
    square = values[:, :width]
    square += np.triu(square, 1).T
    return values


def _decoded(data: bytes) -> Totals:
    magic, header_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("they begin differently")
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(data[_HEADER.size :], ENCODED_BYTES_MAX)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("they are incomplete or too long")
    header: dict[str, Any] = json.loads(raw[:header_bytes])
    width = int(header["width"])
    models, accounts = header["models"], header["accounts"]
    half = width * (width + 1) // 2 + width
    floats = np.frombuffer(raw, dtype="<f8", offset=header_bytes).astype(np.float64)
    cut = len(models) * half
    if len(floats) != cut + len(accounts) * (width + 1) or not np.isfinite(floats).all():
        raise ValueError("their sums are incomplete, too many or not finite")
    halves = floats[:cut].reshape(len(models), half)
    rows = floats[cut:].reshape(len(accounts), width + 1)
    return Totals(
        schema_key=str(header["schema_key"]),
        memory_seconds=float(header["memory_seconds"]),
        owner=str(header["owner"]),
        epoch=int(header["epoch"]),
        revision=int(header["revision"]),
        landmark=float(header["landmark"]),
        models={
            str(key): Sum(_whole(sums, width), int(outcomes))
            for (key, outcomes), sums in zip(models, halves, strict=True)
        },
        accounts={
            str(key): Sum(sums, int(outcomes))
            for (key, outcomes), sums in zip(accounts, rows, strict=True)
        },
    )
