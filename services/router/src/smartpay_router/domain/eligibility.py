"""Which of a merchant's accounts can make a charge at all; the rest are named with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_router.domain.charge import Charge


class Fee(Protocol):
    """What a processor takes of a charge in one currency."""

    def of(self, minor_units: int) -> int:
        """Computes the fee of an amount, both in whole minor units, rounded half up."""
        ...


class Account(Protocol):
    """One account of the merchant at one processor; the router's arm."""

    @property
    def processor_account_id(self) -> str:
        """Our id of the account."""
        ...

    @property
    def processor(self) -> str:
        """The processor's name, for instance "stripe"."""
        ...

    @property
    def fees(self) -> Mapping[str, Fee]:
        """The fee per currency; the account charges only in the currencies named here."""
        ...

    @property
    def enabled(self) -> bool:
        """False while the merchant wants no new charges here."""
        ...


@dataclass(frozen=True)
class Exclusion:
    """An account that was left out: a stable code and one sentence for a person."""

    processor_account_id: str
    code: str
    message: str


def sort_out(
    charge: Charge, accounts: Sequence[Account]
) -> tuple[tuple[Account, ...], tuple[Exclusion, ...]]:
    """Splits a merchant's accounts into those that can make the charge and those that can't.

    Args:
        charge: what is to be charged.
        accounts: all accounts of the merchant, in its own order, which both results keep.

    Raises:
        Refusal: INVALID_ARGUMENT ACCOUNT_UNKNOWN when a token names another account: a
            misspelled id would otherwise look like an account without a token.
    """
    known = {account.processor_account_id for account in accounts}
    if strangers := sorted(charge.tokens.keys() - known):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "ACCOUNT_UNKNOWN",
            "A token names a processor account that this merchant doesn't have.",
            remedy="Send tokens of this merchant's own processor accounts only.",
            field="instrument.tokens",
            facts={"processor_account_id": strangers[0]},
        )
    eligible: list[Account] = []
    excluded: list[Exclusion] = []
    for account in accounts:
        obstacle = _obstacle(charge, account)
        if obstacle is None:
            eligible.append(account)
        else:
            excluded.append(Exclusion(account.processor_account_id, *obstacle))
    return tuple(eligible), tuple(excluded)


def _obstacle(charge: Charge, account: Account) -> tuple[str, str] | None:
    """Names the first reason why the account can't make the charge."""
    if not account.enabled:
        return "ACCOUNT_DISABLED", "The account is switched off for new charges."
    if charge.currency not in account.fees:
        return (
            "CURRENCY_UNSUPPORTED",
            f"The account doesn't charge in {charge.currency}.",
        )
    if account.processor_account_id not in charge.tokens:
        return "NO_TOKEN", "The instrument has no token at this account."
    return None
