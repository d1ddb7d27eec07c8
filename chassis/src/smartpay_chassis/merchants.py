"""The mounted table of merchants: who they are, which clients act for them, where they charge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ProcessorName = Literal["stripe", "amazon_pay", "solana"]


class Fee(BaseModel):
    """What a processor takes of a charge in one currency: a share and a fixed part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    basis_points: Annotated[int, Field(ge=0, le=10_000)]
    fixed_minor_units: Annotated[int, Field(ge=0)]

    def of(self, minor_units: int) -> int:
        """Computes the fee of an amount in minor units, rounded half up."""
        return (minor_units * self.basis_points + 5_000) // 10_000 + self.fixed_minor_units


class ProcessorAccount(BaseModel):
    """One account of a merchant at one processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor_account_id: Annotated[str, Field(pattern="^pac_[a-z][0-9][0-9a-hjkmnp-tv-z]{24}$")]
    processor: ProcessorName
    name: str
    fees: dict[str, Fee]
    """Per currency; an account charges only in the currencies named here."""
    enabled: bool = True
    secret_file: Path | None = None
    """File with the account's credentials; the processor's default setting when absent."""
    webhook_secret_file: Path | None = None
    """File with what its webhooks must be signed with, one per line while one replaces another:
    Stripe's signing secrets, or the ARNs of Amazon Pay's topics. Without it none is taken."""


class Merchant(BaseModel):
    """One merchant as its credentials make it: test and live are two entries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    merchant_id: Annotated[str, Field(pattern="^mer_[a-z][0-9][0-9a-hjkmnp-tv-z]{24}$")]
    name: str
    livemode: bool
    clients: tuple[str, ...] = ()
    """Cognito client ids whose client_credentials tokens act for this merchant."""
    processor_accounts: tuple[ProcessorAccount, ...]
    """In the merchant's own order, which decides when the router can't be asked."""
    fraud_fail_policy: Literal["open", "closed"] = "closed"
    """What to do with a payment when fraud can't be asked in time: charge it, or block it."""
    fraud_review_policy: Literal["charge", "block", "hold"] = "charge"
    """What to do with a payment that fraud would rather have reviewed first: hold asks a person."""

    def account(self, processor_account_id: str) -> ProcessorAccount | None:
        """Finds one of the merchant's accounts."""
        for account in self.processor_accounts:
            if account.processor_account_id == processor_account_id:
                return account
        return None


class Merchants(BaseModel):
    """All merchants of this cell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    merchants: tuple[Merchant, ...]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Merchants:
        keys = [(m.merchant_id, m.livemode) for m in self.merchants]
        clients = [c for m in self.merchants for c in m.clients]
        accounts = [a.processor_account_id for m in self.merchants for a in m.processor_accounts]
        for names in (keys, clients, accounts):
            if len(set(names)) != len(names):
                raise ValueError("a merchant, a client or an account stands in the table twice")
        return self

    def get(self, merchant_id: str, livemode: bool) -> Merchant | None:
        """Finds a merchant's test or live entry."""
        for merchant in self.merchants:
            if merchant.merchant_id == merchant_id and merchant.livemode == livemode:
                return merchant
        return None

    def of_client(self, client_id: str) -> Merchant | None:
        """Finds the merchant for which a client_credentials client acts."""
        for merchant in self.merchants:
            if client_id in merchant.clients:
                return merchant
        return None


def load_merchants(path: Path) -> Merchants:
    """Reads the table; raises pydantic.ValidationError that names what is wrong."""
    return Merchants.model_validate_json(path.read_bytes())
