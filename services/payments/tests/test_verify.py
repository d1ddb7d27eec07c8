"""The command that checks a whole store: it says yes to a good one and names each fault."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smartpay_payments.adapters.sqlite_ledger import SqliteLedger
from smartpay_payments.adapters.sqlite_verification import verify_store
from smartpay_payments.domain.payment import CaptureMethod


async def told(story: Any) -> None:
    """Payments of several sorts."""
    await story.give_back(await story.create("refunded"))
    story.processor.script = ["soft"]
    await story.create("cascaded")
    await story.capture(await story.create("captured", capture_method=CaptureMethod.MANUAL), 1500)
    story.processor.script = ["hard"]
    await story.create("failed")
    await SqliteLedger(story.store).add_up()


def copied(path: Path, copy: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as source:
        source.execute("VACUUM INTO ?", (str(copy),))
    return copy


def checks(path: Path) -> set[str]:
    return {finding.check for finding in verify_store(path).findings}


async def test_a_store_whose_service_runs_is_verified_as_it_stands(story: Any) -> None:
    await told(story)
    found = verify_store(story.path)
    assert found.findings == ()
    assert (found.payments, found.events, found.legs) == (4, 13, 12)


FAULTS = {
    "a leg too much": (
        "INSERT INTO ledger_entry SELECT NULL, merchant_id, livemode, payment_id, 'odd', account,"
        " 1, currency_code, post_time FROM ledger_entry ORDER BY position DESC LIMIT 1",
        {"transactions sum to zero", "books sum to zero at each instant",
         "books and payments agree"},
    ),
    "a leg gone": (
        "DELETE FROM ledger_entry WHERE position = 1",
        {"transactions sum to zero", "books sum to zero at each instant",
         "books and payments agree", "sums per hour are right"},
    ),
    "another amount on both sides": (
        "UPDATE ledger_entry SET minor_units = minor_units * 2 WHERE transaction_id = 'capture'",
        {"books and payments agree", "sums per hour are right"},
    ),
    "a time that goes back": (
        "UPDATE ledger_entry SET post_time = '2020-01-01T00:00:00.000000Z' WHERE position >"
        " (SELECT max(position) - 2 FROM ledger_entry)",
        {"post times never go back", "sums per hour are right"},
    ),
    "a payment that changed alone": (
        "UPDATE payment SET status = 'BLOCKED' WHERE status = 'FAILED'",
        {"books and payments agree", "every payment is listed"},
    ),
    "a payment gone": (
        "DELETE FROM payment WHERE status = 'SUCCEEDED'",
        {"books and payments agree"},
    ),
    "an event gone": ("DELETE FROM event WHERE position = 3", {"events have no gap"}),
    "the last event gone": (
        "DELETE FROM event WHERE position = (SELECT max(position) FROM event)",
        {"events have no gap"},
    ),
    "a payment nobody lists": ("DELETE FROM payment_search", {"every payment is listed"}),
    "a sum that drifted": (
        "UPDATE ledger_hour SET minor_units = minor_units + 1",
        {"sums per hour are right"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_found(story: Any, tmp_path: Path, fault: str) -> None:
    await told(story)
    statement, expected = FAULTS[fault]
    copy = copied(story.path, tmp_path / "copy.db")
    assert checks(copy) == set()
    broken = sqlite3.connect(copy)
    for (trigger,) in broken.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
        broken.execute(f"DROP TRIGGER {trigger}")
    broken.execute(statement)
    broken.commit()
    broken.close()
    assert checks(copy) == expected


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smartpay_payments.verify", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ""},
    )


async def test_the_command_reports_plainly_and_its_exit_code_tells(
    story: Any, tmp_path: Path
) -> None:
    await told(story)
    good = run("--store", str(story.path))
    assert good.returncode == 0, good.stdout + good.stderr
    assert "4 payments, 12 ledger entries, 13 events" in good.stdout
    copy = copied(story.path, tmp_path / "copy.db")
    broken = sqlite3.connect(copy)
    broken.execute("DELETE FROM event WHERE position = 3")
    broken.commit()
    broken.close()
    bad = run("--store", str(copy))
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "WRONG events have no gap" in bad.stdout
    assert "ok    transactions sum to zero" in bad.stdout


@pytest.mark.parametrize("arguments", [(), ("--store", "nowhere.db")])
def test_without_a_store_the_command_says_what_it_needs(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "store" in result.stderr
