"""Logs as an operator reads them: one JSON line per event on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

# In a process of its own, because loggers keep their first settings.
SPEAKER = """
import sys
import structlog
from smartpay_chassis.telemetry import configure_logging
configure_logging("till", sys.argv[1], sys.argv[2])
log = structlog.get_logger()
log.debug("counted", coins=3)
structlog.contextvars.bind_contextvars(request_id="r1")
log.info("opened")
def open_drawer(secret):
    return 1 / 0
try:
    open_drawer("sk_live_drawer")
except ZeroDivisionError:
    log.exception("jammed")
"""


def spoken(level: str, debug: str) -> list[dict[str, Any]]:
    ended = subprocess.run(
        [sys.executable, "-c", SPEAKER, level, debug], capture_output=True, text=True, check=True
    )
    assert ended.stdout == ""
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_each_line_is_one_event_with_service_level_time_and_context() -> None:
    opened, jammed = spoken("INFO", "")
    assert opened.pop("timestamp").endswith("Z")
    assert opened == {
        "event": "opened",
        "service": "till",
        "level": "info",
        "request_id": "r1",
    }
    assert jammed["level"] == "error"
    assert jammed["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_a_traceback_tells_where_and_never_what_was_in_hand() -> None:
    _, jammed = spoken("INFO", "")
    frames = jammed["exception"][0]["frames"]
    assert [frame["name"] for frame in frames] == ["<module>", "open_drawer"]
    assert "sk_live_drawer" not in json.dumps(jammed)


@pytest.mark.parametrize(
    ("level", "debug", "events"),
    [
        ("DEBUG", "", ["counted", "opened", "jammed"]),
        ("error", "", ["jammed"]),
        ("INFO", "smartpay:till", ["counted", "opened", "jammed"]),
        ("INFO", "smartpay:other, smartpay:*", ["counted", "opened", "jammed"]),
        ("INFO", "smartpay:other", ["opened", "jammed"]),
        ("no level", "", ["opened", "jammed"]),
    ],
)
def test_the_level_and_debug_decide_what_is_said(level: str, debug: str, events: list[str]) -> None:
    assert [line["event"] for line in spoken(level, debug)] == events
