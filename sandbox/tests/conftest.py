"""A real sandbox on a free port for each test, and the parameters of a plain charge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[StripeSandbox]:
    async with stripe_sandbox(tmp_path) as running:
        yield running


@pytest.fixture
def charge() -> Callable[..., Any]:
    """The builder of charge parameters; `charge(amount=5)` changes, `=None` leaves out."""

    def build(**changes: object) -> dict[str, object]:
        params: dict[str, object] = {
            "amount": 1999,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
        return {name: value for name, value in (params | changes).items() if value is not None}

    return build
