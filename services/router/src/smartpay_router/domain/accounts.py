"""The accounts that merchants added beside those of the mounted table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smartpay_router.domain.eligibility import Account


@dataclass(frozen=True)
class AddedFee:
    """What a processor takes of a charge in one currency: a share and a fixed part."""

    basis_points: int
    fixed_minor_units: int

    def of(self, minor_units: int) -> int:
        """Computes the fee of an amount in minor units, rounded half up."""
        return (minor_units * self.basis_points + 5_000) // 10_000 + self.fixed_minor_units


@dataclass(frozen=True)
class AddedAccount:
    """One account that a merchant added; as eligibility needs it."""

    processor_account_id: str
    processor: str
    fees: dict[str, AddedFee]
    enabled: bool


@dataclass(frozen=True)
class AddedAccounts:
    """All accounts that a merchant has added, as one change of it told.

    Attributes:
        merchant_id: the tenant.
        livemode: the tenant's mode.
        sequence: counts the merchant's changes; the newest one holds.
        accounts: in the order in which they were added.
    """

    merchant_id: str
    livemode: bool
    sequence: int
    accounts: tuple[AddedAccount, ...]


class Directory:
    """What accounts merchants have added, as far as their events have come.

    Args:
        known: as stored.
    """

    def __init__(self, known: Iterable[AddedAccounts] = ()) -> None:
        self._known = {(k.merchant_id, k.livemode): k for k in known}

    def learn(self, told: AddedAccounts) -> None:
        """Takes a change in; an older one than known changes nothing."""
        key = (told.merchant_id, told.livemode)
        known = self._known.get(key)
        if known is None or told.sequence > known.sequence:
            self._known[key] = told

    def all_of(
        self, merchant_id: str, livemode: bool, mounted: Sequence[Account]
    ) -> tuple[Account, ...]:
        """Lists a merchant's accounts: those of the mounted table, then those added."""
        known = self._known.get((merchant_id, livemode))
        ids = {account.processor_account_id for account in mounted}
        added = known.accounts if known is not None else ()
        return (*mounted, *(a for a in added if a.processor_account_id not in ids))
