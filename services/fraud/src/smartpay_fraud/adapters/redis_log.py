"""The shared log on Redis or Valkey: one stream, one script per round trip, snapshots in chunks."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from smartpay_fraud.domain.replicated_memory import (
    START,
    Entry,
    LogUnavailableError,
    Page,
    Position,
    Snapshot,
)

PAGE_ENTRIES = 1_000
"""Entries per answer, about 300 kB: a replica that lags reads on at once."""

NAMES_KEPT_SECONDS = 172_800
"""How long the log itself notices a repeat: two days, past every retry. Later repeats are
answered from the history and never come here."""

WAIT_MS = 1_000
"""How long the server holds a reader who is up to date."""

CHUNK_BYTES = 8 << 20
"""Part of a snapshot per value: Redis serves nobody else while it copies one."""

LEASE_SECONDS = 300
"""How long nobody else takes a snapshot; longer than one takes."""

FAILED_PAUSE_SECONDS = 0.5
"""After no answer nobody asks for so long: callers hear at once, and a tired server can recover."""

_APPEND = """
local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = ARGV[1]
  redis.call('SET', KEYS[2], epoch)
end
local own = {}
for i = 4, #KEYS do
  if redis.call('SET', KEYS[i], '', 'NX', 'EX', ARGV[4]) then
    own[#own + 1] = redis.call('XADD', KEYS[1], '*', 'e', ARGV[i + 1])
  else
    own[#own + 1] = ''
  end
end
return {
  epoch,
  redis.call('GET', KEYS[3]) or '',
  redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3]),
  own
}
"""


class RedisLog:
    """One replica's connection to the log.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with the password where there is one;
            it is never logged.
        timeout_seconds: for connecting and for each answer.
        name: prefix of all keys; the braces keep them in one slot of a cluster.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        name: str = "{smartpay-fraud}",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            # A repeat is the caller's to decide, within the caller's deadline.
            retry=Retry(NoBackoff(), 0),
        )
        self._reader = Redis.from_url(
            url,
            socket_timeout=timeout_seconds + WAIT_MS / 1_000,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._redis.register_script(_APPEND)
        self._clock = clock
        self._resting_until = float("-inf")
        self._holder = uuid.uuid4().hex
        self._stream = f"{name}:log"
        self._epoch = f"{name}:epoch"
        self._trimmed = f"{name}:trimmed"
        self._once = f"{name}:once:"
        self._snapshot = f"{name}:snapshot"
        self._lease = f"{name}:lease"

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()
        await self._reader.aclose()

    async def append(self, entries: Sequence[Entry], after: Position) -> Page:
        """Appends what is new and reads what follows, in one script."""
        if self._clock() < self._resting_until:
            raise LogUnavailableError("no answer a moment ago")
        keys = [self._stream, self._epoch, self._trimmed]
        keys += [self._once + entry.name for entry in entries]
        told: list[str | int | bytes] = [uuid.uuid4().hex, _text(after)]
        told += [PAGE_ENTRIES, NAMES_KEPT_SECONDS]
        told += [entry.body for entry in entries]
        try:
            epoch, trimmed, found, own = await self._script(keys, told)
        except (RedisError, OSError, TimeoutError) as error:
            self._resting_until = self._clock() + FAILED_PAUSE_SECONDS
            raise LogUnavailableError(type(error).__name__) from error
        return Page(
            epoch.decode(),
            _position(trimmed),
            [(_position(position), fields[1]) for position, fields in found],
            [_position(position) if position else None for position in own],
            len(found) < PAGE_ENTRIES,
        )

    async def read(self, after: Position) -> Page:
        """Appends nothing and reads."""
        return await self.append([], after)

    async def wait(self, after: Position) -> None:
        """Blocks on the server until something follows, a second at most."""
        try:
            await self._reader.xread({self._stream: _text(after)}, count=1, block=WAIT_MS)
        except (RedisError, OSError, TimeoutError) as error:
            raise LogUnavailableError(type(error).__name__) from error

    async def lease(self) -> bool:
        """Takes the lease if it is free."""
        try:
            return bool(await self._redis.set(self._lease, self._holder, nx=True, ex=LEASE_SECONDS))
        except (RedisError, OSError, TimeoutError) as error:
            raise LogUnavailableError(type(error).__name__) from error

    async def save(self, snapshot: Snapshot) -> None:
        """Writes the chunks, then the manifest that makes them count, then trims.

        Entries are trimmed up to the snapshot before this one, so that a replica that lags, or is
        loading that one, finds what it needs.
        """
        data, name = snapshot.data, uuid.uuid4().hex
        try:
            last = await self._manifest()
            chunks = range(0, len(data), CHUNK_BYTES)
            for number, start in enumerate(chunks):
                chunk = data[start : start + CHUNK_BYTES]
                # Chunks without a manifest, of a replica that died here, go by themselves.
                await self._redis.set(f"{self._snapshot}:{name}:{number}", chunk, ex=LEASE_SECONDS)
            manifest = {
                "name": name,
                "chunks": len(chunks),
                "sha256": hashlib.sha256(data).hexdigest(),
                "position": list(snapshot.position),
            }
            async with self._redis.pipeline(transaction=True) as pipe:
                for number in range(len(chunks)):
                    pipe.persist(f"{self._snapshot}:{name}:{number}")
                pipe.set(self._snapshot, json.dumps(manifest))
                if last is not None:
                    position = Position(*last["position"])
                    pipe.set(self._trimmed, _text(position))
                    pipe.xtrim(self._stream, minid=_text(_next(position)), approximate=False)
                    for number in range(last["chunks"]):
                        pipe.expire(f"{self._snapshot}:{last['name']}:{number}", LEASE_SECONDS)
                await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise LogUnavailableError(type(error).__name__) from error

    async def load(self) -> Snapshot | None:
        """Reads the last snapshot and checks that it is whole."""
        try:
            manifest = await self._manifest()
            if manifest is None:
                return None
            chunks: list[Any] = [
                await self._redis.get(f"{self._snapshot}:{manifest['name']}:{number}") or b""
                for number in range(manifest["chunks"])
            ]
        except (RedisError, OSError, TimeoutError) as error:
            raise LogUnavailableError(type(error).__name__) from error
        data = b"".join(chunks)
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            return None
        return Snapshot(Position(*manifest["position"]), data)

    async def _manifest(self) -> dict[str, Any] | None:
        found = await self._redis.get(self._snapshot)
        return json.loads(found) if found else None


def _text(position: Position) -> str:
    return f"{position.time_ms}-{position.number}"


def _next(position: Position) -> Position:
    return Position(position.time_ms, position.number + 1)


def _position(found: bytes) -> Position:
    if not found:
        return START
    time_ms, _, number = found.decode().partition("-")
    return Position(int(time_ms), int(number))
