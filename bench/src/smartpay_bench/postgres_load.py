"""The load on PostgreSQL: python postgres_load.py SOCKET_FOLDER CONNECTIONS SECONDS."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import asyncpg  # type: ignore[import-not-found]  # lives in .venv-bench

CALLERS = 64
DOCUMENT = b"x" * 1200
TABLES = """
CREATE TABLE payment (id TEXT PRIMARY KEY, document BYTEA NOT NULL);
CREATE TABLE claim (id TEXT PRIMARY KEY, hash TEXT NOT NULL);
CREATE TABLE event (position BIGSERIAL PRIMARY KEY, document BYTEA NOT NULL);
CREATE TABLE ledger (id TEXT, account TEXT, minor BIGINT, PRIMARY KEY (id, account));
"""
# One statement, one round trip: the quickest way to the same four rows.
UNIT = """
WITH p AS (INSERT INTO payment VALUES ($1, $2)), c AS (INSERT INTO claim VALUES ($1, 'hash')),
e AS (INSERT INTO event (document) VALUES ($2))
INSERT INTO ledger VALUES ($1, 'merchant', -1999)
"""


async def main(socket_folder: str, connections: int, seconds: float) -> None:
    """Prints units a second."""
    pool = await asyncpg.create_pool(
        host=socket_folder,
        user="postgres",
        database="postgres",
        min_size=connections,
        max_size=connections,
    )
    await pool.execute(TABLES)
    numbers = itertools.count()
    done = 0
    started = time.monotonic()
    ends = started + seconds

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < ends:
            await pool.execute(UNIT, f"pay_{next(numbers):020d}", DOCUMENT)
            done += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    print(done / (time.monotonic() - started))
    pool.terminate()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
