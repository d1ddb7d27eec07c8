"""Verifies a store of payments: `python -m smartpay_payments.verify [--store payments.db]`."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from pathlib import Path

from smartpay_payments.adapters.sqlite_verification import CHECKS, verify_store


def main() -> None:
    """Checks the whole store and reports; exits with 1 when anything is wrong, 2 without a store.

    Reads only, from one snapshot: it runs on a copy and beside the living service alike.
    """
    parser = argparse.ArgumentParser(prog="smartpay_payments.verify", description=main.__doc__)
    parser.add_argument(
        "--store",
        type=Path,
        default=os.environ.get("PAYMENTS_STORE_PATH"),
        help="the SQLite file; PAYMENTS_STORE_PATH when absent",
    )
    store: Path | None = parser.parse_args().store
    if store is None:
        parser.error("name the store by --store or PAYMENTS_STORE_PATH")
    try:
        verification = verify_store(Path(store))
    except sqlite3.Error as error:
        parser.error(f"{store} can't be read as a store of payments: {error}")
    print(
        f"{store}: {verification.payments} payments, {verification.legs} ledger entries,"
        f" {verification.events} events"
    )
    for name in CHECKS:
        wrong = [finding.what for finding in verification.findings if finding.check == name]
        print(f"{'WRONG' if wrong else 'ok   '} {name}")
        for what in wrong:
            print(f"      {what}")
    sys.exit(1 if verification.findings else 0)


if __name__ == "__main__":
    main()
