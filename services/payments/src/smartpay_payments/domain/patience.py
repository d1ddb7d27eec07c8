"""When recovery looks at a payment again, and when it gives up asking."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate

from smartpay_payments.domain.payment import UNSENT, Payment, Status


@dataclass(frozen=True, slots=True)
class Patience:
    """How long recovery and the story wait for what."""

    first_look_seconds: float = 30.0
    """After the first commit: longer than any processor call, so nobody asks while one runs."""
    schedule_seconds: tuple[float, ...] = (1, 5, 30, 120, 600, 3600)
    """Pauses between looks at an unknown outcome; after the last a person decides.

    Looks that come early, for instance after restarts, don't use it up.
    """
    confirm_seconds: float = 86400.0
    """How long a payment may wait for its confirmation, or the payer's choice of a rail."""
    review_seconds: float = 7 * 86400.0
    """How long a payment may be held for review before it is canceled."""
    action_seconds: float = 3600.0
    """How long a payer may take for 3-D Secure, a checkout or a transfer."""
    action_first_poll_seconds: float = 5.0
    """How soon a payment that waits for the payer is first looked at.

    Most payers act at once or never, so each later pause is half as long as the wait so far.
    """
    action_poll_seconds: float = 60.0
    """How often it is looked at in the end, and one on which a processor is still at work."""
    authorization_poll_seconds: float = 21600.0
    """How often an authorization is looked at, because it may lapse."""
    late_poll_seconds: float = 300.0
    """How often late transfers are looked for."""
    cascade_attempts_max: int = 3
    """Attempts of one payment that are made without asking the payer again."""
    cascade_seconds: float = 300.0
    """No further account is tried when the first attempt began longer ago."""

    def pause(self, checks: int, since: datetime, now: datetime) -> timedelta | None:
        """Answers how long to wait after one more look in vain; None when a person must decide.

        Every restart looks at all that is open at once. So looks count only as far as time has
        passed too, or a service that is restarted often would give up within seconds.

        Args:
            checks: looks in vain before this one.
            since: when the call was stored whose outcome is unknown.
            now: the time.
        """
        schedule = self.schedule_seconds
        offsets = list(accumulate(schedule))
        age = (now - since).total_seconds()
        if checks >= len(schedule) and age >= offsets[-1]:
            return None
        step = min(checks, bisect_right(offsets, age), len(schedule) - 1)
        return timedelta(seconds=schedule[step])

    def next_look(self, payment: Payment, now: datetime) -> datetime | None:
        """Answers when a payment has to be looked at next; None when nothing is open."""
        looks = [r.check_time for r in payment.refunds if r.check_time is not None]
        if payment.retry_time is not None:
            looks.append(payment.retry_time)
        expires = payment.action_expire_time
        if payment.status in UNSENT and expires is not None:
            looks.append(expires)
        if payment.status is Status.REQUIRES_ACTION:
            waited = (now - payment.last_attempt.start_time).total_seconds()
            pause = min(self.action_poll_seconds, max(self.action_first_poll_seconds, waited / 2))
            poll = now + timedelta(seconds=pause)
            looks.append(poll if expires is None or expires <= now else min(poll, expires))
        if payment.status is Status.REQUIRES_CAPTURE:
            looks.append(now + timedelta(seconds=self.authorization_poll_seconds))
        if payment.late_until is not None and payment.late_until > now:
            looks.append(now + timedelta(seconds=self.late_poll_seconds))
        return min(looks, default=None)
