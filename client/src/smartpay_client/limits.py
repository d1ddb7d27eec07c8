"""Every number the client is bounded by, with its reason."""

from __future__ import annotations

ANSWER_MARGIN_SECONDS = 2.0
"""A try waits so much longer than the edge may take: its answer tells more than a timeout."""

TRIES_WORTH = 2
"""A call without a deadline gets the time of so many full tries: one that hangs, one that ends."""

CONNECT_SECONDS = 5.0
"""TCP and TLS to the edge; a healthy one takes milliseconds, a lost packet costs one second."""

TRIES = 4
"""Tries of one call; a fault that outlives them outlives the next ones as well."""

PAUSE_SECONDS = 0.25
"""Longest pause after the first try; it doubles with each further one."""

PAUSE_SECONDS_MAX = 8.0
"""Where the doubling ends."""

IN_FLIGHT_SECONDS = 1.0
"""Between two questions for the answer to a key that is still being worked on."""

SETTLE_SECONDS = 0.5
"""First pause of `wait`; the edge has just waited itself. It grows by half each time."""

SETTLE_SECONDS_MAX = 5.0
"""Where that growth ends: recovery looks at a payment after 1, 5 and 30 seconds."""

TOKEN_EARLY_SECONDS = 60.0
"""A token is renewed so long before its end, so that none ends on its way."""

TOKEN_SECONDS = 10.0
"""One question to the issuer; Cognito answers within one."""

TOKEN_LIFE_SECONDS = 300.0
"""Believed of a token whose issuer does not say; the shortest that Cognito can be set to."""

TOKEN_AGAIN_SECONDS = 5.0
"""After a failed early renewal the old token serves so long before the issuer is asked again."""

CONNECTIONS = 100
"""Open connections to the edge; each carries one call at a time."""

WEBHOOK_TOLERANCE_SECONDS = 300
"""Either way between a webhook's time and ours: clocks differ, and old ones may be replayed."""

PAGE_SIZE = 200
"""Asked for per page: the most the contract gives, since iterators read on anyway."""
