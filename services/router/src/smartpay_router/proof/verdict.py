"""What a dead router has left behind, and whether that is all it had promised.

Looked at is a copy of its file, by the service's own code: as the next start will see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smartpay_chassis.sqlite import BUSY_TIMEOUT_SECONDS, SqliteStore
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.payment_events import samples_of
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.replicas import Mind, Replica
from smartpay_router.domain.totals import Totals, merged
from smartpay_router.proof.load import Ledger
from smartpay_router.proof.replay import conceive

ERROR_MAX = 1e-12
"""Sums in another order round differently; more than this is another sum."""


@dataclass
class Verdict:
    """What was found in one dead router's files.

    Attributes:
        rows: of the log.
        behind: rows that a start would read behind the snapshot.
        lost: acknowledged outcomes, or events before the cursor, that are not in the log as told.
        doubled: tries with more than one end in the log.
        unbound: acknowledged bindings that are not stored.
        forgotten: acknowledged decisions without an end that nobody waits for.
        error: largest difference of snapshot and rest from the whole log, as a share.
        strayed: whether the breakers of both differ.
        examples: some of what is wrong.
    """

    rows: int = 0
    behind: int = 0
    lost: int = 0
    doubled: int = 0
    unbound: int = 0
    forgotten: int = 0
    error: float = 0.0
    strayed: bool = False
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Tells whether every promise was kept."""
        broken = self.lost + self.doubled + self.unbound + self.forgotten + self.strayed
        return broken == 0 and self.error <= ERROR_MAX


async def judge(file: Path, ledger: Ledger) -> Verdict:
    """Judges routers by their file and by what their callers were told; some may be alive."""
    # As of now: what is answered later may not be in the copy.
    told = Ledger(
        dict(ledger.outcomes), set(ledger.decisions), dict(ledger.bound), list(ledger.events)
    )
    with tempfile.TemporaryDirectory(prefix="sp-verdict-") as folder:
        copy = Path(folder) / file.name
        await asyncio.to_thread(_copy, file, copy)
        store = await SqliteStore.open(copy, MIGRATIONS)
        try:
            verdict = await store.read(lambda db: _read(db, told))
            await _learn_again(store, verdict)
        finally:
            await store.close()
    return verdict


def _copy(file: Path, copy: Path) -> None:
    """Copies what is committed, as of one moment."""
    with (
        contextlib.closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_SECONDS)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def _read(db: sqlite3.Connection, ledger: Ledger) -> Verdict:
    verdict = Verdict()
    ends: dict[tuple[str, int], tuple[str, str]] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for row in db.execute("SELECT * FROM outcome_log WHERE is_final = 1"):
        key = (row["decision_id"], row["attempt_index"])
        ends[key] = (row["processor_account_id"], row["outcome"])
        seen[key] += 1
    verdict.rows = seen.total()
    verdict.doubled = sum(count > 1 for count in seen.values())
    cursor = db.execute("SELECT cursor FROM event_cursor").fetchone()
    promised = dict(ledger.outcomes)
    for event in ledger.events[: 0 if cursor is None else int(cursor["cursor"] or 0)]:
        for sample in samples_of(event):
            promised[sample.decision_id, sample.attempt_index] = (
                sample.processor_account_id,
                sample.outcome.value,
            )
    for key, told in promised.items():
        if ends.get(key) != told:
            verdict.lost += 1
            verdict.examples.append(f"outcome {key}: told {told}, stored {ends.get(key)}")
    stored = dict(db.execute("SELECT payment_id, decision_id FROM decisions").fetchall())
    for payment_id, decision_id in ledger.bound.items():
        if stored.get(payment_id) != decision_id:
            verdict.unbound += 1
            verdict.examples.append(
                f"{payment_id}: told {decision_id}, stored {stored.get(payment_id)}"
            )
    waiting = {row["decision_id"] for row in db.execute("SELECT decision_id FROM open_decisions")}
    ended = {decision_id for decision_id, _ in ends}
    for decision_id in (ledger.decisions - ended) ^ (waiting & ledger.decisions):
        verdict.forgotten += 1
        verdict.examples.append(f"{decision_id}: waiting and ended, or neither")
    return verdict


async def _learn_again(store: SqliteStore, verdict: Verdict) -> None:
    """Compares starts from the snapshots with ones that learn the whole log."""

    def empty(owner: str, epoch: int) -> Mind:
        return conceive(store, owner, epoch)

    owners = await store.read(
        lambda db: [row["owner"] for row in db.execute("SELECT owner FROM replica_epochs")]
    )
    wholes, resumed = [], []
    for owner in owners:
        whole = empty(owner, 0)
        await whole.learning.catch_up()
        mind = await Replica(owner, SqliteReplicas(store), empty, lambda: 0.0).join()
        verdict.behind = max(verdict.behind, mind.learning.counts.learned)
        wholes.append(whole.learner.totals())
        resumed.append(mind.learner.totals())
        # What several replicas tell each other's breakers is in nobody's log.
        if len(owners) == 1 and mind.steering.state() != whole.steering.state():
            verdict.strayed = True
            verdict.examples.append("the breakers of snapshot and log differ")
    if owners:
        verdict.error = difference(merged(resumed), merged(wholes))


def difference(one: Totals, other: Totals) -> float:
    """Answers the largest difference of two totals, as a share of the largest number beside it."""
    if one.landmark != other.landmark or one.outcomes != other.outcomes:
        return 1.0
    worst = 0.0
    for mine, theirs in ((one.models, other.models), (one.accounts, other.accounts)):
        if mine.keys() != theirs.keys():
            return 1.0
        for name, known in mine.items():
            scale = float(np.abs(theirs[name].values).max()) or 1.0
            worst = max(worst, float(np.abs(known.values - theirs[name].values).max()) / scale)
    return worst
