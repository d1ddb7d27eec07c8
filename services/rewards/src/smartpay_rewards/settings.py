"""What rewards must know beyond what every service must know."""

from __future__ import annotations

import json
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from smartpay_chassis.settings import EnvironmentSettings, ServiceSettings
from smartpay_rewards.domain.reward import Terms
from smartpay_rewards.worker import Pace

RECEIPT_KEY_BYTES_MIN = 32  # the strength of the HMAC-SHA256 that hides receipt addresses


def keypair_of(secret: str) -> Keypair:
    """Read a key in the two spellings of Solana's tools: base58, or a JSON array of 64 numbers.

    Raises:
        ValueError: it is neither; the text never repeats the secret.
    """
    try:
        if secret.lstrip().startswith("["):
            return Keypair.from_bytes(bytes(json.loads(secret)))
        return Keypair.from_base58_string(secret.strip())
    except (ValueError, TypeError):
        # Without a cause: the libraries' texts may repeat parts of the secret.
        raise ValueError(
            "must be a Solana secret key: base58, or a JSON array of 64 numbers"
        ) from None


def _address(text: str) -> str:
    try:
        return str(Pubkey.from_string(text))
    except ValueError:
        raise ValueError("must be a base58 Solana address") from None


class ChainSettings(EnvironmentSettings):
    """Where the chain is and which key mints; all that `deploy` needs."""

    rpc_url: str = Field(
        validation_alias="SOLANA_RPC_URL", description="The chain's JSON-RPC address."
    )
    mint_authority: SecretStr = Field(
        validation_alias="MINT_AUTHORITY_SECRET_KEY",
        description="Key that mints and pays fees and rent: base58 or a JSON array of 64 numbers.",
    )
    rpc_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=5.0,
        validation_alias="REWARDS_RPC_TIMEOUT_SECONDS",
        description="One call to the chain; then its outcome is unknown and asked for again.",
    )

    @field_validator("mint_authority")
    @classmethod
    def _is_a_key(cls, secret: SecretStr) -> SecretStr:
        keypair_of(secret.get_secret_value())
        return secret

    @property
    def authority(self) -> Keypair:
        """The mint authority."""
        return keypair_of(self.mint_authority.get_secret_value())


class RewardsSettings(ChainSettings, ServiceSettings):
    """The rewards service's settings."""

    mint: str = Field(
        validation_alias="SPL_TOKEN_MINT_ADDRESS",
        description="The reward token's mint, base58; printed by smartpay_rewards.deploy.",
    )
    default_wallet: str = Field(
        default="",
        validation_alias="DEFAULT_USER_WALLET",
        description="Wallet of payers who name none; without it their rewards are parked.",
    )
    treasury_wallet: str = Field(
        default="",
        validation_alias="SOLANA_TREASURY_WALLET",
        description="Our own wallet; it never gets rewards.",
    )
    receipt_key: SecretStr = Field(
        validation_alias="REWARDS_RECEIPT_KEY",
        description="Hex, 32 bytes or more: hides receipt addresses. Never change it: a new key"
        " would mint every replayed reward again.",
    )
    store_path: Path = Field(
        validation_alias="REWARDS_STORE_PATH",
        description="SQLite file with the rewards; its folder must exist. It may be lost: the"
        " chain remembers.",
    )
    genesis_hash: str = Field(
        default="",
        validation_alias="REWARDS_GENESIS_HASH",
        description="The chain to mint on; another one is refused. Empty trusts the first seen.",
    )
    livemode: bool = Field(
        default=False,
        validation_alias="REWARDS_LIVEMODE",
        description="Whose payments this chain serves: test (false) or live (true). The others'"
        " rewards are parked, so that test payments never mint real tokens.",
    )
    usd_rates: dict[str, str] = Field(
        default={"USD": "1", "USDC": "1", "EUR": "27/25", "GBP": "127/100", "JPY": "1/150"},
        validation_alias="REWARDS_USD_RATES",
        description="JSON: USD per unit of each currency, as exact ratios. The defaults are"
        " development figures. Rewards in other currencies are parked.",
    )
    vesting_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = Field(
        default=0,
        validation_alias="REWARDS_VESTING_SECONDS",
        description="Refunds within this time of the capture reduce or cancel the reward.",
    )
    poll_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.5,
        validation_alias="REWARDS_POLL_SECONDS",
        description="How often finality is looked for; one call asks for a hundred rewards.",
    )
    in_flight_max: Annotated[int, Field(ge=1, le=256)] = Field(
        default=16,
        validation_alias="REWARDS_IN_FLIGHT_MAX",
        description="Transactions on their way at once; public nodes limit callers above some 40.",
    )
    batch_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=100,
        validation_alias="REWARDS_BATCH_MAX",
        description="Rewards per round; one getMultipleAccounts call asks for 100 receipts.",
    )
    blockhash_seconds: Annotated[float, Field(ge=0, le=30)] = Field(
        default=5.0,
        validation_alias="REWARDS_BLOCKHASH_SECONDS",
        description="How long one blockhash signs transactions; it lives about 60 seconds.",
    )
    payments_timeout_seconds: Annotated[float, Field(gt=0, le=10)] = Field(
        default=5.0,
        validation_alias="REWARDS_PAYMENTS_TIMEOUT_SECONDS",
        description="One look-up of a payment; a third of what a caller of POST /reward waits.",
    )

    @field_validator("mint")
    @classmethod
    def _mint_is_an_address(cls, text: str) -> str:
        return _address(text)

    @field_validator("default_wallet", "treasury_wallet")
    @classmethod
    def _wallet_is_an_address(cls, text: str) -> str:
        return _address(text) if text else ""

    @field_validator("receipt_key")
    @classmethod
    def _receipt_key_is_strong(cls, secret: SecretStr) -> SecretStr:
        try:
            raw = bytes.fromhex(secret.get_secret_value())
        except ValueError:
            raw = b""
        if len(raw) < RECEIPT_KEY_BYTES_MIN:
            raise ValueError(f"must be at least {RECEIPT_KEY_BYTES_MIN} bytes in hex")
        return secret

    @field_validator("usd_rates")
    @classmethod
    def _rates_are_ratios(cls, rates: dict[str, str]) -> dict[str, str]:
        for currency, text in rates.items():
            try:
                rate = Fraction(text)
            except (ValueError, ZeroDivisionError):
                rate = Fraction(0)
            if rate <= 0:
                raise ValueError(f"{currency} must be a ratio above 0, such as 27/25 or 1.08")
        return rates

    @property
    def receipt_key_bytes(self) -> bytes:
        """The HMAC key."""
        return bytes.fromhex(self.receipt_key.get_secret_value())

    @property
    def terms(self) -> Terms:
        """What payments earn."""
        return Terms(
            usd_rates={code: Fraction(text) for code, text in self.usd_rates.items()},
            vesting=timedelta(seconds=self.vesting_seconds),
            livemode=self.livemode,
        )

    @property
    def pace(self) -> Pace:
        """How fast the worker goes."""
        return Pace(
            poll=timedelta(seconds=self.poll_seconds),
            batch_max=self.batch_max,
            in_flight_max=self.in_flight_max,
        )
