"""Every number the generated Envoys are bounded by, with its reason."""

from __future__ import annotations

from datetime import timedelta

BODY_BYTES = 64 * 1024
"""A request's JSON body. The largest of ours (128 transactions to score) is about 40 KiB."""

RESPONSE_BYTES = 4 * 1024 * 1024
"""An answer that has to be transcoded whole; a page of 200 payments is about 600 KiB,
and gRPC clients take 4 MiB by default."""

HEADER_KIB = 32
"""All headers of a request together: a token is 1 to 4 KiB, the rest is small."""

HEADERS = 64
"""How many headers a request may have; ours need about a dozen."""

EDGE_CONNECTIONS = 10_000
"""Open connections at the edge; about 50 KiB each, so 0.5 GiB at worst."""

SIDECAR_CONNECTIONS = 1_000
"""Open connections at a sidecar; peers hold one or two each."""

STREAMS_PER_CONNECTION = 128
"""Concurrent calls on one HTTP/2 connection; bounds what one client can occupy."""

STREAM_WINDOW_BYTES = 64 * 1024
"""HTTP/2 flow control per call: what Envoy holds for a reader that doesn't read."""

CONNECTION_WINDOW_BYTES = 1024 * 1024
"""HTTP/2 flow control per connection."""

HEADERS_TIMEOUT = timedelta(seconds=10)
"""A client that has not finished its headers by then is stalling."""

REQUEST_TIMEOUT = timedelta(seconds=15)
"""A client that has not finished its body (64 KiB) by then is stalling."""

IDLE_TIMEOUT = timedelta(minutes=5)
"""A connection without calls is closed; load balancers in front use 60 to 350 s."""

CONNECT_TIMEOUT = timedelta(seconds=1)
"""TCP and TLS to a neighbour; a healthy one takes milliseconds."""

JWKS_TIMEOUT = timedelta(seconds=1)
"""One fetch of the key set; while it fails every request waits so long."""

JWKS_CACHE = timedelta(minutes=5)
"""Keys are fetched anew after that: how late a withdrawn key is noticed."""

CLOCK_SKEW_SECONDS = 10
"""How far our clock and the issuer's may differ; Envoy's default is 60."""

RETRIES = 2
"""Tries after the first, for methods that may be repeated."""

RETRY_PAUSE = timedelta(milliseconds=25)
"""Base of the jittered back-off between tries; it doubles up to ten times that."""

RETRY_BUDGET_PERCENT = 20.0
"""Retries may add a fifth to the load, so that they can't drown a struggling service."""

RETRIES_AT_LEAST = 3
"""Concurrent retries allowed even at little load, where a fifth would be none."""

PENDING_CALLS = 256
"""Calls waiting for a connection to one neighbour; more fail at once as UNAVAILABLE."""

CONCURRENT_CALLS = 512
"""Calls in flight to one neighbour; a service that holds more is not answering."""

FAILURES_TO_EJECT = 5
"""Consecutive UNAVAILABLE or connection failures before a replica is left out."""

EJECTION = timedelta(seconds=5)
"""How long it is left out at first; each further ejection adds as much."""

HEALTH_INTERVAL = timedelta(seconds=1)
"""Pause between health checks, with traffic or without."""

HEALTH_TIMEOUT = timedelta(seconds=2)
"""A check that takes longer failed; generous, because a busy service is not a dead one."""

FAILED_CHECKS = 3
"""Failed checks in a row before the service counts as down."""
