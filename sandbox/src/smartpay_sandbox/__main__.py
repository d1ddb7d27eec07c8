"""Joins the simulators into one process on one loopback port: `python -m smartpay_sandbox`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from smartpay_sandbox.amazon_pay_api import AmazonPaySimulator
from smartpay_sandbox.control import sandbox_app
from smartpay_sandbox.listener import LOOPBACK, bind, server_for
from smartpay_sandbox.merchant_endpoint import MerchantEndpoints
from smartpay_sandbox.settings import SettingError, Settings, read_settings
from smartpay_sandbox.simulator import Simulator
from smartpay_sandbox.solana import SolanaSimulator
from smartpay_sandbox.stripe_api import StripeSimulator

FULL_COLLECTIONS_EVERY = 1_000_000
"""Of the middle generation: practically never. All that has been charged is kept, so looking it
through for garbage finds nothing, and after 40,000 payments it held every caller for half a
second, which no processor does."""


def simulators_for(settings: Settings) -> dict[str, Simulator]:
    """Build every simulator of the sandbox, by the path it is mounted under."""
    return {
        "stripe": StripeSimulator(
            settings.state_dir,
            settings.stripe_accounts,
            check_responses=settings.check_responses,
            webhooks=settings.stripe_webhooks,
        ),
        "amazon_pay": AmazonPaySimulator(settings.state_dir, settings.amazon_pay_merchants),
        "merchant": MerchantEndpoints(),
        "solana": SolanaSimulator(
            settings.state_dir,
            confirmed_slots=settings.solana_confirmed_slots,
            final_slots=settings.solana_final_slots,
            funds=settings.solana_funds,
        ),
    }


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; tells the port once connections are accepted.

    Raises:
        OSError: if the port is taken.
    """
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTIONS_EVERY)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    if settings.port_file is not None:
        settings.port_file.unlink(missing_ok=True)  # nobody may read the last run's port
    listener = bind(settings.port)
    port: int = listener.getsockname()[1]
    server = server_for(sandbox_app(simulators_for(settings)))

    async def serve() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        # The socket is bound, so callers may connect from now on; health answers once loaded.
        listener.listen()
        if settings.port_file is not None:
            _write_whole(settings.port_file, str(port))
        print(f"sandbox listens on http://{LOOPBACK}:{port}", flush=True)
        await server.serve(sockets=[listener])

    uvloop.run(serve())
    if not server.started:
        raise SystemExit(1)


def _write_whole(file: Path, text: str) -> None:
    """Replace a file at once, so that nobody reads half a number."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)


def main() -> None:
    """Run from the environment; explain a bad setting or a taken port in one line."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    try:
        settings = read_settings(os.environ)
        run(settings)
    except SettingError as refusal:
        sys.exit(f"sandbox: {refusal}")
    except OSError as refusal:
        sys.exit(f"sandbox: cannot listen: {refusal}; set SANDBOX_PORT to 0 or to a free port.")


if __name__ == "__main__":
    main()
