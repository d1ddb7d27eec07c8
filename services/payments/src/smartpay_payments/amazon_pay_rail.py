"""Joins the Amazon Pay rail: its settings, the merchants' credentials, the client."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated

from pydantic import Field

from smartpay_chassis.merchants import Merchants
from smartpay_chassis.settings import EnvironmentSettings, SettingsError
from smartpay_payments.adapters.account_secrets import AccountSecrets, AccountView
from smartpay_payments.adapters.amazon_pay_client import AmazonPayClient
from smartpay_payments.adapters.amazon_pay_processor import AmazonPayProcessor
from smartpay_payments.adapters.amazon_pay_reports import AmazonPayReports
from smartpay_payments.adapters.amazon_pay_signing import (
    ENVIRONMENTS,
    AmazonPayAccount,
    read_account,
)


class AmazonPaySettings(EnvironmentSettings):
    """What the rail must know; credentials stand in each account's own secret file."""

    amazon_pay_api_base: str = Field(
        default="",
        validation_alias="AMAZON_PAY_API_BASE",
        description="Amazon Pay's address, the sandbox's in development; empty is Amazon's own of"
        " each account's region.",
    )
    amazon_pay_return_url: str = Field(
        default="https://smartpay.dev/return",
        validation_alias="AMAZON_PAY_RETURN_URL",
        description="Where Amazon sends the payer's browser back to.",
    )
    amazon_pay_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        default=8.0,
        validation_alias="AMAZON_PAY_TIMEOUT_SECONDS",
        description="One call; three of them fit into the 30 s of a confirmation.",
    )


def amazon_pay_accounts(merchants: Merchants) -> dict[str, AmazonPayAccount]:
    """Reads the credentials of every Amazon Pay account by its id.

    Raises:
        SettingsError: naming the account whose secret file is absent or can't be used.
    """
    accounts = {}
    for merchant in merchants.merchants:
        for account in merchant.processor_accounts:
            if account.processor != "amazon_pay":
                continue
            name = f"Amazon Pay account {account.processor_account_id}"
            if account.secret_file is None:
                raise SettingsError(f"{name} has no secret file")
            try:
                secret = account.secret_file.read_text()
                accounts[account.processor_account_id] = read_account(
                    secret, livemode=merchant.livemode
                )
            except (OSError, ValueError) as error:
                raise SettingsError(f"{name}: {error}") from None
    return accounts


def added_account(fields: Mapping[str, str]) -> AmazonPayAccount:
    """Reads an account that a merchant added; raises ValueError when it can't be used."""
    key_id = fields.get("public_key_id", "")
    if not key_id.startswith(ENVIRONMENTS):
        raise ValueError(f"public_key_id must begin with {' or '.join(ENVIRONMENTS)}: make a key")
    livemode = key_id.startswith("LIVE-")
    return read_account(json.dumps(dict(fields)), livemode=livemode)


def build_amazon_pay(
    merchants: Merchants,
    settings: AmazonPaySettings,
    secrets: AccountSecrets,
    clock: Callable[[], datetime],
) -> tuple[AmazonPayProcessor, AmazonPayReports]:
    """Joins the rail and its reports; close the former at the end.

    Args:
        merchants: the mounted table.
        settings: the rail's.
        secrets: the credentials of accounts that merchants added.
        clock: the time, aware.

    Raises:
        SettingsError: an account's credentials can't be used.
    """
    client = AmazonPayClient(
        AccountView("amazon_pay", amazon_pay_accounts(merchants), secrets, added_account),
        settings.amazon_pay_api_base,
        settings.amazon_pay_timeout_seconds,
        clock,
    )
    processor = AmazonPayProcessor(client, settings.amazon_pay_return_url, clock)
    return processor, AmazonPayReports(client, clock)
