"""Every number the generated Envoys are bounded by, with its reason.

This is the one table of limits; `docs/limits.md` is made of it. Where an environment may choose
(`CLIENT_CALLS`, weights, `TRACE_PERCENT`), the number here is the hole's default.
"""

from __future__ import annotations

from datetime import timedelta

# How large

BODY_BYTES = 64 * 1024
"""A request's JSON body. The largest of ours (128 transactions to score) is about 40 KiB."""

RESPONSE_BYTES = 4 * 1024 * 1024
"""An answer that has to be transcoded whole; a page of 200 payments is about 600 KiB,
and gRPC clients take 4 MiB by default."""

HEADER_KIB = 32
"""All headers of a request together: a token is 1 to 4 KiB, the rest is small."""

HEADERS = 64
"""How many headers a request may have; ours need about a dozen."""

REGEX_STEPS = 4_096
"""Size of a compiled regular expression; ours come from the generator alone, and the longest, all
headers but those that are passed on, has about 1,500. Envoy's default is 100."""

# How often

RATE_WINDOW = timedelta(seconds=2)
"""Buckets refill evenly over this; a full one is spent at once by a burst."""

CLIENT_CALLS = 1_000
"""Calls of one client per window, so 500 a second: ten times the load the mesh is sized for,
so no batch job of an honest client is refused, and a third of what one core of the edge carries."""

CLIENTS = 1_000
"""Clients whose buckets are kept; a client beyond pushes out the idlest."""

COSTLY_CALLS = 40
"""Calls of one client per window on one costly route: each is a page of work, or paid for."""

COSTLY_ROUTES = (
    "/smartpay.assistant.v1.AssistantService/Ask",
    "/smartpay.assistant.v1.AssistantService/Chat",
    "/smartpay.fraud.v1.FraudService/ScoreBatch",
    "/smartpay.fraud.v1.RulesService/BacktestRules",
)
"""Routes with that bound of their own: a language model answers, 128 rows are scored, or thousands
of past transactions are judged again."""

TOKENLESS_CALLS = 400
"""Calls without a client per window, all together: health and documents."""

SIGNED_CALLS = 400
"""Calls of one address per window that carry a signature in place of a token, so 200 a second: a
processor sends up to four notices per payment from a handful of addresses."""

EDGE_CALLS = 10_000
"""All calls per window before their tokens are looked at: what checking signatures may cost.
5,000 a second keep one core busy; good tokens only suffer when a flood is larger."""

# How many at once

EDGE_CONNECTIONS = 10_000
"""Open connections at the edge; about 50 KiB each, so 0.5 GiB at worst."""

SIDECAR_CONNECTIONS = 1_000
"""Open connections at a sidecar; peers hold one or two each."""

STREAMS_PER_CONNECTION = 128
"""Concurrent calls on one HTTP/2 connection; bounds what one client can occupy."""

OPS_CONNECTIONS = 64
"""Probes and scrapers; apart from the others, so that a flood doesn't hide the metrics or make
kubelet think the pod is dead."""

STREAM_WINDOW_BYTES = 64 * 1024
"""HTTP/2 flow control per call: what Envoy holds for a reader that doesn't read."""

CONNECTION_WINDOW_BYTES = 1024 * 1024
"""HTTP/2 flow control per connection."""

UPSTREAM_BUFFER_BYTES = 256 * 1024
"""What Envoy reads ahead of a connection to a service before it waits for the caller to read."""

# HTTP/2 floods: frames that cost the receiver more than the sender (CVE-2019-9511 to 9518)

FRAMES_WAITING = 10_000
"""Frames of any kind not yet taken by the peer; a reader that has stopped reaches it."""

CONTROL_FRAMES_WAITING = 1_000
"""Of these PING, SETTINGS and RST_STREAM answers, which a flood provokes."""

EMPTY_FRAMES = 1
"""Frames in a row without content or end: no client has a use for a second."""

PRIORITY_FRAMES_PER_STREAM = 100
"""PRIORITY is deprecated (RFC 9113); old browsers send a handful."""

WINDOW_UPDATES_PER_FRAME = 10
"""WINDOW_UPDATE frames for each DATA frame sent; clients need one or two."""

RESETS_AT_ONCE = 500
"""Calls a connection may open and drop at once (CVE-2023-44487); a client that gives up at its
deadline drops at most the 128 it may have open."""

RESETS_PER_SECOND = 33
"""How fast that allowance comes back."""

CALLS_PER_READ = 32
"""Calls begun per turn of one connection; the rest waits while others have theirs."""

# How much memory

EDGE_HEAP_BYTES = 1024 * 1024 * 1024
"""The edge's heap: about 16 MiB idle, and room for 10,000 connections."""

SIDECAR_HEAP_BYTES = 256 * 1024 * 1024
"""A sidecar's heap: about 16 MiB idle, a few connections, 512 calls in flight."""

LUA_HEAP_PERCENT = 1_000
"""How far a script's heap grows over what the last collection left, before the next one begins.
Most of it are the contract's tables, which every collection looks through: at LuaJIT's own 200 that
takes 2 % of the edge's CPU."""

HEAP_SHRINKS_AT = 0.85
"""Share of the heap at which free memory goes back to the system and idle times shorten."""

HEAP_RESETS_AT = 0.90
"""Share at which the calls that hold most memory are reset, largest first."""

HEAP_REFUSES_AT = 0.95
"""Share at which new calls get 503: better than being killed with all calls in flight."""

# How long

HEADERS_TIMEOUT = timedelta(seconds=10)
"""A client that has not finished its headers by then is stalling."""

REQUEST_TIMEOUT = timedelta(seconds=15)
"""A client that has not finished its body (64 KiB) by then is stalling."""

IDLE_TIMEOUT = timedelta(minutes=5)
"""A connection without calls is closed; load balancers in front use 60 to 350 s."""

STREAM_IDLE_TIMEOUT = timedelta(minutes=1)
"""A call on which nothing moves; routes of the contract have their own deadlines."""

FLUSH_TIMEOUT = timedelta(seconds=10)
"""A finished answer that its reader doesn't take by then is dropped with its memory."""

STALLED_READER = timedelta(seconds=30)
"""A connection whose buffer stays full so long is closed: its reader has stopped."""

CONNECT_TIMEOUT = timedelta(seconds=1)
"""TCP and TLS to a neighbour; a healthy one takes milliseconds."""

JWKS_TIMEOUT = timedelta(seconds=1)
"""One fetch of the key set; while it fails every request waits so long."""

JWKS_CACHE = timedelta(minutes=5)
"""Keys are fetched anew after that: how late a withdrawn key is noticed."""

CLOCK_SKEW_SECONDS = 10
"""How far our clock and the issuer's may differ; Envoy's default is 60."""

# Neighbours

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

EJECTED_PERCENT = 50
"""At most half of the replicas are left out: if more fail, the fault is not theirs."""

PANIC_PERCENT = 50.0
"""Below this share of healthy replicas calls go to all of them: health is then more likely
misjudged than true, and a lone replica's failed check must not turn errors into an outage.
With two replicas one can be out (50 % is not below), and the other takes all."""

STABLE_WEIGHT = 100
"""Share of a service's calls that go to its stable version."""

CANARY_WEIGHT = 0
"""Share that goes to its canary; Envoy adds both up, so 95 and 5 are 5 %."""

HEALTH_INTERVAL = timedelta(seconds=1)
"""Pause between health checks, with traffic or without."""

HEALTH_TIMEOUT = timedelta(seconds=2)
"""A check that takes longer failed; generous, because a busy service is not a dead one."""

FAILED_CHECKS = 3
"""Failed checks in a row before the service counts as down."""

# Traces

TRACE_PERCENT = 0
"""Calls whose spans are sent to a collector; every call from outside has a trace id
whatever this says."""

SPANS_WAITING = 1_024
"""Spans kept for a collector that is slow; more are dropped, never calls delayed."""

SPANS_TOGETHER = 64
"""Spans sent at once, or whatever there is after five seconds."""

TRACES_TIMEOUT = timedelta(seconds=1)
"""One delivery of spans; they are lost when it fails."""

# What is shown and how it travels

GZIP_BYTES = 8 * 1024
"""Smaller answers are sent as they are: lists shrink tenfold, but one payment (about 3 KiB) is
two packets, and not worth the edge's CPU."""

PAGE_BYTES = 2 * 1024 * 1024
"""The largest file shown to anybody: the page's script has 1.3 MB, compressed."""

PAGE_CALLS = 20
"""Readings of one page per window, all readers together. A page waits whole in memory until it
is read: at worst 10 a second, 1.3 MB each, for FLUSH_TIMEOUT."""

PREFLIGHT_CACHE = timedelta(minutes=10)
"""How long a browser remembers that a page may call us; how late a withdrawn origin notices."""
