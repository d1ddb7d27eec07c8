"""The embedded memory's snapshot beside the history, so that a restart replays only what is new."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from smartpay_fraud.adapters.sqlite_tail import SqliteTail
from smartpay_fraud.domain.features import FeatureStore
from smartpay_fraud.domain.memory import LocalMemory
from smartpay_fraud.domain.scoring import Place
from smartpay_fraud.domain.snapshot import SnapshotError

log = structlog.get_logger()

FORMAT = 1
HEADER_BYTES_MAX = 4_096


class MemoryFile:
    """One file, replaced as a whole: a line of JSON, then the store as `FeatureStore.dump` has it.

    A file that is damaged, cut off or of another version is ignored: the history holds everything.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def beside(cls, history: Path) -> MemoryFile:
        """The snapshot of what a history makes of the memory."""
        return cls(history.with_suffix(".memory"))

    def save(self, data: bytes, place: Place, aside: str = ".new") -> None:
        """Replaces the file; it is on disk when this returns.

        Args:
            data: the store, dumped.
            place: the end of the history that it stands for.
            aside: what is added to the name while it is written; one per process that writes.
        """
        header = {
            "format": FORMAT,
            "sha256": hashlib.sha256(data).hexdigest(),
            "place": asdict(place),
        }
        beside = self._path.with_name(self._path.name + aside)
        with beside.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load(self) -> tuple[FeatureStore, Place]:
        """Reads the store and the history's place that it stands for; an empty one else."""
        return self.read() or (FeatureStore(), Place())

    def read(self) -> tuple[FeatureStore, Place] | None:
        """Reads the same; None where there is nothing that can be used."""
        try:
            with self._path.open("rb") as file:
                header = json.loads(file.readline(HEADER_BYTES_MAX))
                data = file.read()
            if header["format"] != FORMAT:
                raise SnapshotError("it is of another format")
            if hashlib.sha256(data).hexdigest() != header["sha256"]:
                raise SnapshotError("it is damaged")
            return FeatureStore.load(data), Place(**header["place"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, SnapshotError) as error:
            log.warning("the memory's snapshot can't be used; replaying all", error=str(error))
        return None


def renew(kept: MemoryFile, tail: SqliteTail) -> bool:
    """Brings a snapshot up to the end of the history; False when there is none to go on from."""
    found = kept.read()
    if found is None:
        return False
    store, after = found
    forget_erased(store, tail)
    upto = tail.place()
    memory = LocalMemory(store)
    for happening in tail.between(after, upto):
        memory.take_in(happening)
    kept.save(store.dump(), upto, ".apart")
    return True


def forget_erased(store: FeatureStore, tail: SqliteTail) -> None:
    """Forgets customers whom the history does not name any more: they asked after the snapshot."""
    people: Any = store.populations["customer"]
    named = [(name, [payment.key for payment in held.payments]) for name, held in people]
    for name, payments in named:
        if tail.erased(payments):
            store.forget(*name)
