"""The work list in SQLite: each method is one unit of the chassis' group-commit writer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from smartpay_chassis.refusals import idempotency_key_reused
from smartpay_chassis.sqlite import SqliteStore
from smartpay_rewards.domain.issuance import (
    ChainIdentity,
    Changed,
    Decide,
    GrantRequest,
    Reward,
    RewardKey,
    State,
)
from smartpay_rewards.domain.reward import Mark, Refunded, SettledPayment

MIGRATIONS = (
    """
    CREATE TABLE reward (
      merchant_id TEXT NOT NULL, livemode INTEGER NOT NULL, payment_id TEXT NOT NULL,
      payment TEXT NOT NULL, mark_known INTEGER NOT NULL, state TEXT NOT NULL,
      token_base_units INTEGER NOT NULL, wallet TEXT NOT NULL, granted_wallet TEXT NOT NULL,
      rate TEXT NOT NULL, hold TEXT NOT NULL, attempts INTEGER NOT NULL, signature TEXT NOT NULL,
      create_time INTEGER NOT NULL, look_time INTEGER NOT NULL, resend_time INTEGER NOT NULL,
      final_time INTEGER,
      PRIMARY KEY (merchant_id, livemode, payment_id)) WITHOUT ROWID;
    CREATE INDEX reward_newest ON reward (merchant_id, livemode, create_time, payment_id);
    CREATE INDEX reward_due ON reward (look_time)
      WHERE state IN ('NEW', 'SENT') AND mark_known;
    CREATE TABLE granted (
      merchant_id TEXT NOT NULL, livemode INTEGER NOT NULL, idempotency_key TEXT NOT NULL,
      body_digest TEXT NOT NULL,
      PRIMARY KEY (merchant_id, livemode, idempotency_key)) WITHOUT ROWID;
    CREATE TABLE remembered (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
)
_COLUMNS = (
    "merchant_id, livemode, payment_id, payment, mark_known, state, token_base_units, wallet, "
    "granted_wallet, rate, hold, attempts, signature, create_time, look_time, resend_time, "
    "final_time"
)
_KEY = "merchant_id = ? AND livemode = ? AND payment_id = ?"
_CURSOR = "payments cursor"


class SqliteRewards:
    """Keeps the rewards of all merchants in one file. Open it with `await SqliteRewards.open`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, path: Path) -> SqliteRewards:
        """Open or create the file; its folder must exist."""
        return cls(await SqliteStore.open(path, MIGRATIONS))

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        await self._store.close()

    async def change(
        self,
        key: RewardKey,
        decide: Decide,
        *,
        cursor: str | None = None,
        request: GrantRequest | None = None,
    ) -> Changed:
        """Read a reward, decide, and write what comes out, with the event cursor if given.

        Raises:
            Refusal: IDEMPOTENCY_KEY_REUSED when the request's key came with another body.
        """

        def work(connection: sqlite3.Connection) -> Changed:
            replayed = request is not None and _claim(connection, key, request)
            existing = _get(connection, key)
            reward = decide(existing)
            if reward is not None and reward != existing:
                _put(connection, reward)
            if cursor is not None:
                _remember(connection, _CURSOR, cursor)
            return Changed(reward, replayed)

        return await self._store.write(work)

    async def get(self, key: RewardKey) -> Reward | None:
        """Return one reward."""
        return await self._store.read(lambda connection: _get(connection, key))

    async def page(
        self, merchant_id: str, livemode: bool, after: tuple[datetime, str] | None, limit: int
    ) -> list[Reward]:
        """Return a tenant's rewards, newest first, after a (create_time, payment_id)."""
        query = f"SELECT {_COLUMNS} FROM reward WHERE merchant_id = ? AND livemode = ?"
        values: list[object] = [merchant_id, livemode]
        if after is not None:
            query += " AND (create_time, payment_id) < (?, ?)"
            values += [_micros(after[0]), after[1]]
        query += " ORDER BY create_time DESC, payment_id DESC LIMIT ?"
        values.append(limit)
        return await self._store.read(
            lambda connection: [_reward(row) for row in connection.execute(query, values)]
        )

    async def due(self, now: datetime, limit: int) -> list[Reward]:
        """Return rewards to look at now, longest waiting first."""
        query = f"""SELECT {_COLUMNS} FROM reward
          WHERE state IN ('NEW', 'SENT') AND mark_known AND look_time <= ?
          ORDER BY look_time LIMIT ?"""
        values = (_micros(now), limit)
        return await self._store.read(
            lambda connection: [_reward(row) for row in connection.execute(query, values)]
        )

    async def resume(self, renew: Callable[[Reward], Reward]) -> None:
        """After a restart, renew everything that is SENT or PARKED."""
        query = f"SELECT {_COLUMNS} FROM reward WHERE state IN ('SENT', 'PARKED')"

        def work(connection: sqlite3.Connection) -> None:
            for row in connection.execute(query).fetchall():
                _put(connection, renew(_reward(row)))

        await self._store.write(work)

    async def cursor(self) -> str:
        """Return the cursor of the last event applied; "" before the first."""
        return await self._store.read(lambda connection: _recall(connection, _CURSOR) or "")

    async def save_cursor(self, cursor: str) -> None:
        """Remember a cursor whose event changed nothing."""
        await self._store.write(lambda connection: _remember(connection, _CURSOR, cursor))

    async def pin(self, identity: ChainIdentity) -> ChainIdentity:
        """Remember the chain at first use and return the one remembered."""

        def work(connection: sqlite3.Connection) -> ChainIdentity:
            for name, value in asdict(identity).items():
                connection.execute(
                    "INSERT OR IGNORE INTO remembered VALUES (?, ?)", (f"chain {name}", value)
                )
            names = asdict(identity)
            return ChainIdentity(
                **{name: _recall(connection, f"chain {name}") or "" for name in names}
            )

        return await self._store.write(work)


def _claim(connection: sqlite3.Connection, key: RewardKey, request: GrantRequest) -> bool:
    """Bind an idempotency key to its body; answers whether it was bound before."""
    scope = (key.merchant_id, key.livemode, request.idempotency_key)
    known = connection.execute(
        "SELECT body_digest FROM granted "
        "WHERE merchant_id = ? AND livemode = ? AND idempotency_key = ?",
        scope,
    ).fetchone()
    if known is None:
        connection.execute("INSERT INTO granted VALUES (?, ?, ?, ?)", (*scope, request.body_digest))
        return False
    if known["body_digest"] != request.body_digest:
        raise idempotency_key_reused()
    return True


def _get(connection: sqlite3.Connection, key: RewardKey) -> Reward | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM reward WHERE {_KEY}",
        (key.merchant_id, key.livemode, key.payment_id),
    ).fetchone()
    return None if row is None else _reward(row)


def _put(connection: sqlite3.Connection, reward: Reward) -> None:
    values = _row(reward)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO reward ({_COLUMNS}) VALUES ({marks})", values)


def _remember(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO remembered VALUES (?, ?)", (name, value))


def _recall(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM remembered WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row["value"])


def _micros(moment: datetime) -> int:
    """Whole microseconds since 1970: what a datetime can hold, without a float between."""
    since = moment - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _moment(micros: int) -> datetime:
    seconds, rest = divmod(micros, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def _payment_text(payment: SettledPayment) -> str:
    """Spell what the row's key does not say."""
    return json.dumps(
        {
            "captured_minor_units": payment.captured_minor_units,
            "currency_code": payment.currency_code,
            "refunds": [[_micros(each.time), each.minor_units] for each in payment.refunds],
            "settle_time": _micros(payment.settle_time),
            "wallet": payment.wallet,
            "mark": payment.mark.value if payment.mark else None,
            "sequence": payment.sequence,
            "vesting_seconds": None if payment.vesting is None else payment.vesting.total_seconds(),
        }
    )


def _payment(key: RewardKey, text: str) -> SettledPayment:
    said = json.loads(text)
    return SettledPayment(
        merchant_id=key.merchant_id,
        livemode=key.livemode,
        payment_id=key.payment_id,
        captured_minor_units=said["captured_minor_units"],
        currency_code=said["currency_code"],
        refunds=tuple(Refunded(_moment(micros), units) for micros, units in said["refunds"]),
        settle_time=_moment(said["settle_time"]),
        wallet=said["wallet"],
        mark=Mark(said["mark"]) if said["mark"] else None,
        sequence=said["sequence"],
        vesting=_vesting(said.get("vesting_seconds")),
    )


def _vesting(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _row(reward: Reward) -> tuple[object, ...]:
    return (
        reward.key.merchant_id,
        reward.key.livemode,
        reward.key.payment_id,
        _payment_text(reward.payment),
        reward.payment.mark is not None,
        reward.state.value,
        reward.token_base_units,
        reward.wallet,
        reward.granted_wallet,
        reward.rate,
        reward.hold,
        reward.attempts,
        reward.signature,
        _micros(reward.create_time),
        _micros(reward.look_time),
        _micros(reward.resend_time),
        _micros(reward.final_time) if reward.final_time else None,
    )


def _reward(row: sqlite3.Row) -> Reward:
    return Reward(
        payment=_payment(
            RewardKey(row["merchant_id"], bool(row["livemode"]), row["payment_id"]), row["payment"]
        ),
        state=State(row["state"]),
        token_base_units=row["token_base_units"],
        wallet=row["wallet"],
        granted_wallet=row["granted_wallet"],
        rate=row["rate"],
        hold=row["hold"],
        attempts=row["attempts"],
        signature=row["signature"],
        create_time=_moment(row["create_time"]),
        look_time=_moment(row["look_time"]),
        resend_time=_moment(row["resend_time"]),
        final_time=_moment(row["final_time"]) if row["final_time"] is not None else None,
    )
