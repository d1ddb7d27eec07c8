"""The sandbox's settings, read once from the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class SettingError(ValueError):
    """A setting that cannot be used; the message names it, the reason and the remedy."""


@dataclass(frozen=True)
class Settings:
    """What the process needs to know; the README has the table."""

    state_dir: Path
    """Where every simulator keeps its durable state; made if absent."""
    port: int = 0
    """Loopback TCP port; 0 takes a free one."""
    port_file: Path | None = None
    """Written with the port once the sandbox listens."""
    stripe_accounts: tuple[tuple[str, str], ...] = ()
    """(account id, secret key) of each Stripe account to have from the start."""
    check_responses: bool = False
    """Hold each Stripe answer against the SDK's annotations; slow, for tests."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        SettingError: if one is absent or unusable.
    """
    if not environment.get("SANDBOX_STATE_DIR"):
        raise SettingError("SANDBOX_STATE_DIR is not set; name a folder for the durable state.")
    port = environment.get("SANDBOX_PORT", "0")
    if not port.isdigit() or int(port) > 65535:
        raise SettingError(f"SANDBOX_PORT is {port!r}; use 0 (any free port) to 65535.")
    checks = environment.get("SANDBOX_CHECK_RESPONSES", "0")
    if checks not in ("0", "1"):
        raise SettingError(f"SANDBOX_CHECK_RESPONSES is {checks!r}; use 0 or 1.")
    port_file = environment.get("SANDBOX_PORT_FILE")
    return Settings(
        state_dir=Path(environment["SANDBOX_STATE_DIR"]),
        port=int(port),
        port_file=Path(port_file) if port_file else None,
        stripe_accounts=_accounts(environment.get("SANDBOX_STRIPE_ACCOUNTS")),
        check_responses=checks == "1",
    )


def _accounts(file: str | None) -> tuple[tuple[str, str], ...]:
    if not file:
        return ()
    try:
        rows = json.loads(Path(file).read_text())
        return tuple((str(row["id"]), str(row["secret_key"])) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise SettingError(
            f"SANDBOX_STRIPE_ACCOUNTS: {file} cannot be read ({type(cause).__name__}); it must "
            'hold JSON like [{"id": "acct_...", "secret_key": "sk_test_..."}].'
        ) from cause
