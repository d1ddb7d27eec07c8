"""Joins the Solana rail: its settings, the merchants' wallets, the chain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from smartpay_chassis.merchants import Merchant, Merchants, ProcessorAccount
from smartpay_chassis.settings import EnvironmentSettings, SettingsError
from smartpay_payments.adapters.account_secrets import AccountSecrets, AccountView
from smartpay_payments.adapters.solana_pay_books import SolanaBooks
from smartpay_payments.adapters.solana_pay_chain import SolanaChain, SolanaRpc
from smartpay_payments.adapters.solana_pay_processor import (
    DECIMALS,
    SolanaAccount,
    SolanaPayProcessor,
)

# Marking a refund costs 0.0009 SOL of rent, a payer's new token account 0.002, the fee 0.000005.
DUST = {"SOL": 3_000_000, "USDC": 500_000}


class SolanaSettings(EnvironmentSettings):
    """What the rail must know. Without SOLANA_RPC_URL it isn't served."""

    solana_rpc_url: str = Field(
        default="",
        validation_alias="SOLANA_RPC_URL",
        description="JSON-RPC address of the chain that payers pay on; empty serves no Solana.",
    )
    usdc_mint: str = Field(
        default="EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
        validation_alias="PAYMENTS_USDC_MINT_ADDRESS",
        description="USDC's mint on that chain; the default is Circle's on mainnet.",
    )
    solana_treasury_wallet: str = Field(
        default="",
        validation_alias="SOLANA_TREASURY_WALLET",
        description="Wallet that is paid on accounts without a secret file.",
    )
    solana_refund_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="SOLANA_REFUND_SECRET_KEY",
        description="Key of the funded wallet that pays refunds, fees and rent, for accounts"
        " without a secret file. Change it only while no refund is open.",
    )
    solana_genesis_hash: str = Field(
        default="",
        validation_alias="PAYMENTS_SOLANA_GENESIS_HASH",
        description="The chain this must be; another one is never believed. Empty trusts the"
        " first seen, which live payments never do.",
    )
    solana_livemode: bool = Field(
        default=False,
        validation_alias="PAYMENTS_SOLANA_LIVEMODE",
        description="Whose payments this chain serves: test (false) or live (true).",
    )
    solana_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=5.0,
        validation_alias="PAYMENTS_SOLANA_TIMEOUT_SECONDS",
        description="One call to the chain; then nothing is known and it is asked again.",
    )
    solana_connections_max: Annotated[int, Field(ge=1, le=256)] = Field(
        default=16,
        validation_alias="PAYMENTS_SOLANA_CONNECTIONS_MAX",
        description="Calls to the chain at once; public nodes limit callers above some 40.",
    )
    solana_late_seconds: Annotated[float, Field(gt=0)] = Field(
        default=604_800.0,
        validation_alias="PAYMENTS_SOLANA_LATE_SECONDS",
        description="How long an ended attempt is watched for late transfers: a week, since a"
        " saved QR code may be paid at any time.",
    )
    solana_dust: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default=DUST,
        validation_alias="PAYMENTS_SOLANA_DUST",
        description="JSON, minor units by currency: a surplus up to this is kept and counted, not"
        " refunded, since fees and rent of a refund cost more.",
    )

    @field_validator("usdc_mint", "solana_treasury_wallet")
    @classmethod
    def _is_an_address(cls, text: str) -> str:
        try:
            return str(Pubkey.from_string(text)) if text else ""
        except ValueError:
            raise ValueError("must be a base58 Solana address") from None

    @field_validator("solana_dust")
    @classmethod
    def _knows_each_currency(cls, dust: dict[str, int]) -> dict[str, int]:
        if dust.keys() != DECIMALS.keys():
            raise ValueError("must name SOL and USDC and nothing else")
        return dust

    @model_validator(mode="after")
    def _live_money_is_pinned(self) -> Self:
        if self.solana_livemode and not self.solana_genesis_hash:
            raise ValueError("PAYMENTS_SOLANA_LIVEMODE needs PAYMENTS_SOLANA_GENESIS_HASH")
        return self


def build_solana(
    merchants: Merchants, settings: SolanaSettings, secrets: AccountSecrets
) -> tuple[SolanaPayProcessor, SolanaBooks] | None:
    """Makes the rail and its books, or None where no chain is set.

    Args:
        merchants: the mounted table.
        settings: the rail's.
        secrets: the credentials of accounts that merchants added.

    Raises:
        SettingsError: an account on the rail can't be served; the text names it and the remedy.
    """
    accounts = solana_accounts(merchants, settings)
    if not settings.solana_rpc_url:
        return None
    rpc = SolanaRpc(
        settings.solana_rpc_url,
        timeout_seconds=settings.solana_timeout_seconds,
        connections_max=settings.solana_connections_max,
    )
    view = AccountView("solana", accounts, secrets, added_account)
    chain = SolanaChain(rpc, settings.solana_genesis_hash)
    processor = SolanaPayProcessor(
        view,
        chain,
        settings.usdc_mint,
        settings.solana_dust,
        settings.solana_late_seconds,
        settings.solana_livemode,
    )
    mints = {"SOL": "", "USDC": settings.usdc_mint}
    return processor, SolanaBooks(view, chain, mints, settings.solana_dust)


def added_account(fields: Mapping[str, str]) -> SolanaAccount:
    """Reads an account that a merchant added; raises ValueError when it can't be served.

    It needs a refund key of its own: whoever pays their own wallet and refunds it out of ours
    would empty ours.
    """
    recipient, secret = fields.get("recipient", ""), fields.get("refund_secret_key", "")
    try:
        return SolanaAccount(str(Pubkey.from_string(recipient)), keypair_of(secret))
    except ValueError:
        raise ValueError("needs a recipient and a refund key") from None


def solana_accounts(merchants: Merchants, settings: SolanaSettings) -> dict[str, SolanaAccount]:
    """Reads wallet and refund key of every account on the rail; raises SettingsError."""
    return {
        account.processor_account_id: _account(merchant, account, settings)
        for merchant in merchants.merchants
        for account in merchant.processor_accounts
        if account.processor == "solana"
    }


def _account(
    merchant: Merchant, account: ProcessorAccount, settings: SolanaSettings
) -> SolanaAccount:
    name = f"account {account.processor_account_id}"
    if not settings.solana_rpc_url:
        raise SettingsError(f"{name} is on Solana and SOLANA_RPC_URL is not set")
    if merchant.livemode != settings.solana_livemode:
        # Coins of a test chain would pay live orders.
        raise SettingsError(
            f"{name} is a {'live' if merchant.livemode else 'test'} one, but"
            f" PAYMENTS_SOLANA_LIVEMODE says {str(settings.solana_livemode).lower()}"
        )
    if foreign := account.fees.keys() - DECIMALS.keys():
        raise SettingsError(f"{name} can't charge {min(foreign)}: this rail has SOL and USDC")
    own = _own_secret(account)
    recipient, secret = own.get("recipient", ""), own.get("refund_secret_key", "")
    if account.secret_file is None:
        recipient = settings.solana_treasury_wallet
        secret = settings.solana_refund_key.get_secret_value()
    if not recipient or not secret:
        # Never one of each: whoever is paid on their own wallet must not refund out of ours.
        raise SettingsError(
            f"{name} needs a secret file with both recipient and refund_secret_key, or no file"
            " and both SOLANA_TREASURY_WALLET and SOLANA_REFUND_SECRET_KEY"
        )
    try:
        return SolanaAccount(str(Pubkey.from_string(recipient)), keypair_of(secret))
    except ValueError:
        # Without a cause: the libraries' texts may repeat parts of the secret.
        raise SettingsError(
            f"{name}: recipient must be a base58 address, the refund key base58 or a JSON array"
            " of 64 numbers"
        ) from None


def _own_secret(account: ProcessorAccount) -> dict[str, str]:
    if account.secret_file is None:
        return {}
    try:
        own = json.loads(account.secret_file.read_text())
        if isinstance(own, dict) and all(isinstance(text, str) for text in own.values()):
            return own
    except (OSError, ValueError):
        pass
    raise SettingsError(
        f"account {account.processor_account_id}: its secret file must hold JSON like"
        ' {"recipient": "<base58>", "refund_secret_key": "<base58>"}'
    )


def keypair_of(secret: str) -> Keypair:
    """Reads a key in the two spellings of Solana's tools; raises ValueError when it is neither."""
    try:
        if secret.lstrip().startswith("["):
            return Keypair.from_bytes(bytes(json.loads(secret)))
        return Keypair.from_base58_string(secret.strip())
    except TypeError as error:
        raise ValueError("not a secret key") from error
