"""Which processor accounts have stopped answering, and which have just begun again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

# An account that answers some calls and not others is woken no more often than this.
WAKE_PAUSE = timedelta(seconds=5)


class Silence:
    """Tells recovery when an account answers again, so that nobody waits out a long pause.

    Looks cost no patience when they come early (see `Patience.pause`).

    Args:
        clock: the time, aware.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._silent: set[str] = set()
        self._awake: set[str] = set()
        self._woken: dict[str, datetime] = {}

    def heard(self, processor_account_id: str, answered: bool) -> None:
        """Notes whether a call to an account was answered in a way that can be used."""
        if not answered:
            self._silent.add(processor_account_id)
        elif processor_account_id in self._silent:
            self._silent.discard(processor_account_id)
            self._awake.add(processor_account_id)

    def take_awake(self) -> list[str]:
        """Answers the accounts that have begun to answer since; each once."""
        now = self._clock()
        ready = [a for a in self._awake if now - self._woken.get(a, now - WAKE_PAUSE) >= WAKE_PAUSE]
        for account in ready:
            self._awake.discard(account)
            self._woken[account] = now
        return sorted(ready)
