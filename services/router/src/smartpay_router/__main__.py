"""Runs the router: `python -m smartpay_router`."""

from __future__ import annotations

from smartpay_chassis.server import run
from smartpay_router.joining import build
from smartpay_router.settings import RouterSettings

if __name__ == "__main__":
    run("router", RouterSettings, build)
