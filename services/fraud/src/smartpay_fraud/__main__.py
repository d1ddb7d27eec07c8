"""Runs the fraud service: `python -m smartpay_fraud`."""

from __future__ import annotations

import os
import sys

from smartpay_fraud.threads import ThreadsError, one_thread_each


def main() -> None:
    """Runs until told to stop; exits with 78 (EX_CONFIG) when it must not serve."""
    try:
        one_thread_each(os.environ)
    except ThreadsError as error:
        sys.stderr.write(f"fraud: {error}\n")
        sys.exit(os.EX_CONFIG)
    # NumPy counts threads when it is imported, so everything else comes after.
    from smartpay_fraud.joining import serve

    serve()


if __name__ == "__main__":
    main()
