"""Where replicas meet, on the router's file: processes of one machine may share it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.domain.replicas import BASE, FencedError, Pulse, ReplicaState


class SqliteReplicas:
    """The port `ReplicaStates`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def join(self, owner: str) -> int:
        """Begins a life of a replica: answers its epoch, and shuts out all earlier ones."""

        def work(db: sqlite3.Connection) -> int:
            (epoch,) = db.execute(
                "INSERT INTO replica_epochs VALUES (?, 1)"
                " ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (owner,),
            ).fetchone()
            return int(epoch)

        return await self._store.write(work)

    async def put(self, state: ReplicaState) -> None:
        """Publishes a state in place of the owner's last."""

        def work(db: sqlite3.Connection) -> None:
            _check_epoch(db, state.owner, state.epoch)
            changed = db.execute(
                "INSERT INTO replica_states VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " epoch = excluded.epoch, position = excluded.position,"
                " seen_at = excluded.seen_at, totals = excluded.totals,"
                " breakers = excluded.breakers"
                " WHERE excluded.epoch > epoch OR excluded.position >= position",
                (
                    state.owner,
                    state.epoch,
                    state.position,
                    state.seen_at,
                    state.totals,
                    state.breakers,
                ),
            ).rowcount
            if not changed:
                raise FencedError

        await self._store.write(work)

    async def states(self) -> Sequence[ReplicaState]:
        """Reads all states as of one moment, in the order of their owners."""

        def query(db: sqlite3.Connection) -> list[ReplicaState]:
            rows = db.execute("SELECT * FROM replica_states ORDER BY owner")
            return [ReplicaState(**row) for row in rows]

        return await self._store.read(query)

    async def pulse(self, pulse: Pulse) -> None:
        """Publishes evidence in place of the owner's last."""

        def work(db: sqlite3.Connection) -> None:
            _check_epoch(db, pulse.owner, pulse.epoch)
            db.execute(
                "INSERT OR REPLACE INTO replica_pulses VALUES (?, ?, ?, ?)",
                (pulse.owner, pulse.epoch, pulse.sequence, pulse.evidence),
            )

        await self._store.write(work)

    async def pulses(self) -> Sequence[Pulse]:
        """Reads the latest evidence of all, in the order of their owners."""

        def query(db: sqlite3.Connection) -> list[Pulse]:
            return [
                Pulse(**row) for row in db.execute("SELECT * FROM replica_pulses ORDER BY owner")
            ]

        return await self._store.read(query)

    async def retire(self, gone: ReplicaState, base: ReplicaState) -> None:
        """Puts a base that contains a replica's state in place of both, in one transaction."""

        def work(db: sqlite3.Connection) -> None:
            _check_epoch(db, gone.owner, gone.epoch)
            _check_epoch(db, base.owner, base.epoch)
            for table in ("replica_states", "replica_pulses"):
                db.execute(f"DELETE FROM {table} WHERE owner = ?", (gone.owner,))
            db.execute(
                "INSERT OR REPLACE INTO replica_states VALUES (?, ?, ?, ?, ?, ?)",
                (base.owner, base.epoch, base.position, base.seen_at, base.totals, base.breakers),
            )
            db.execute(
                "UPDATE outcome_log SET owner = ? WHERE owner = ? AND position <= ?",
                (BASE, gone.owner, gone.position),
            )
            db.execute("UPDATE open_decisions SET owner = ? WHERE owner = ?", (BASE, gone.owner))

        await self._store.write(work)


def _check_epoch(db: sqlite3.Connection, owner: str, epoch: int) -> None:
    row = db.execute("SELECT epoch FROM replica_epochs WHERE owner = ?", (owner,)).fetchone()
    if row is None or row["epoch"] != epoch:
        raise FencedError
