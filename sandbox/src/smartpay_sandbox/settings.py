"""The sandbox's settings, read once from the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smartpay_sandbox.amazon_pay_store import Registration, read_registration
from smartpay_sandbox.solana_wallets import Funds, read_funds

SLOTS_MAX = 150  # as long as a blockhash lives; nobody waits longer for finality


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
    amazon_pay_merchants: tuple[Registration, ...] = ()
    """Merchants of Amazon Pay to have from the start."""
    solana_confirmed_slots: int = 0
    """Slots of 400 ms until a transaction on the chain is confirmed."""
    solana_final_slots: int = 2
    """Slots until it is finalized; a real cluster needs 32."""
    solana_funds: tuple[Funds, ...] = ()
    """Wallets that have coins from the start."""
    stripe_webhooks: tuple[tuple[str, str, str], ...] = ()
    """(account id, address, signing secret) of each webhook endpoint to have from the start."""
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
        amazon_pay_merchants=_merchants(environment.get("SANDBOX_AMAZON_PAY_MERCHANTS")),
        solana_confirmed_slots=_slots(environment, "SANDBOX_SOLANA_CONFIRMED_SLOTS", "0"),
        solana_final_slots=_slots(environment, "SANDBOX_SOLANA_FINAL_SLOTS", "2"),
        solana_funds=_funds(environment.get("SANDBOX_SOLANA_FUNDS")),
        stripe_webhooks=_webhooks(environment.get("SANDBOX_STRIPE_WEBHOOKS")),
        check_responses=checks == "1",
    )


def _merchants(file: str | None) -> tuple[Registration, ...]:
    if not file:
        return ()
    try:
        return tuple(read_registration(row) for row in json.loads(Path(file).read_text()))
    except (OSError, ValueError, TypeError) as cause:
        raise SettingError(
            f"SANDBOX_AMAZON_PAY_MERCHANTS: {file} cannot be read ({type(cause).__name__}); it "
            'must hold JSON like [{"merchant_id": "A...", "store_id": "amzn1...", '
            '"public_key_id": "SANDBOX-...", "public_key": "<PEM>"}].'
        ) from cause


def _slots(environment: Mapping[str, str], name: str, default: str) -> int:
    text = environment.get(name, default)
    if not text.isdigit() or int(text) > SLOTS_MAX:
        raise SettingError(f"{name} is {text!r}; use 0 to {SLOTS_MAX}.")
    return int(text)


def _funds(file: str | None) -> tuple[Funds, ...]:
    if not file:
        return ()
    try:
        return tuple(read_funds(row) for row in json.loads(Path(file).read_text()))
    except (OSError, ValueError, TypeError) as cause:
        raise SettingError(
            f"SANDBOX_SOLANA_FUNDS: {file} cannot be read ({type(cause).__name__}); it must "
            'hold JSON like [{"address": "<base58>", "sol": "10", "usdc": "1000"}].'
        ) from cause


def _webhooks(file: str | None) -> tuple[tuple[str, str, str], ...]:
    if not file:
        return ()
    try:
        rows = json.loads(Path(file).read_text())
        return tuple((str(r["account"]), str(r["url"]), str(r["secret"])) for r in rows)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise SettingError(
            f"SANDBOX_STRIPE_WEBHOOKS: {file} cannot be read ({type(cause).__name__}); it must "
            'hold JSON like [{"account": "acct_...", "url": "https://...", "secret": "whsec_"}].'
        ) from cause


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
