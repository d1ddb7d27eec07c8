"""All merchants as they are now: the mounted table, and what was changed since.

One copy in memory, changed after each commit. The embedded store has one replica, so nobody else
changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from smartpay_chassis.merchants import Merchant, Merchants
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.eligibility import MerchantTerms
from smartpay_payments.domain.merchants import (
    FailPolicy,
    Fee,
    ProcessorAccount,
    Profile,
    ReviewPolicy,
    Settings,
)


class ProfileStore(Protocol):
    """Keeps what merchants changed."""

    async def all(self) -> list[Profile]:
        """Reads every profile that was ever changed."""
        ...

    async def save(self, profile: Profile, record: AuditRecord) -> bool:
        """Stores the next version; answers False when somebody else was faster."""
        ...


class MerchantDirectory:
    """Answers what holds for a merchant. Open it with `await MerchantDirectory.open(...)`.

    Args:
        profiles: all merchants as they are now.
        store: where changes go.
    """

    def __init__(self, profiles: Iterable[Profile], store: ProfileStore) -> None:
        self._profiles = {(p.merchant_id, p.livemode): p for p in profiles}
        self._store = store

    @classmethod
    async def open(
        cls, table: Merchants, store: ProfileStore, defaults: Settings
    ) -> MerchantDirectory:
        """Lays what was changed over the mounted table.

        Args:
            table: the mounted table.
            store: where changes are kept.
            defaults: settings of a merchant where the table says nothing.
        """
        changed = {(p.merchant_id, p.livemode): p for p in await store.all()}
        return cls(
            (
                _merged(_of_table(m, defaults), changed.get((m.merchant_id, m.livemode)))
                for m in table.merchants
            ),
            store,
        )

    def get(self, merchant_id: str, livemode: bool) -> Profile | None:
        """Finds a merchant's test or live profile."""
        return self._profiles.get((merchant_id, livemode))

    def terms(self, merchant_id: str, livemode: bool) -> MerchantTerms | None:
        """Answers what the story of a payment asks of the merchant; None when it is gone."""
        profile = self.get(merchant_id, livemode)
        return None if profile is None else profile.terms()

    def owner_of(self, processor_account_id: str) -> tuple[Profile, ProcessorAccount] | None:
        """Finds whose an account is, for calls that name no merchant."""
        for profile in self._profiles.values():
            for account in (*profile.table_accounts, *profile.accounts):
                if account.processor_account_id == processor_account_id:
                    return profile, account
        return None

    def changed(self) -> list[Profile]:
        """Lists the profiles that differ from the table, for readers that begin anew."""
        return [p for p in self._profiles.values() if p.version]

    def all(self) -> list[Profile]:
        """Lists all profiles."""
        return list(self._profiles.values())

    async def save(self, profile: Profile, record: AuditRecord) -> bool:
        """Stores a profile's next version; answers False when somebody else was faster."""
        if not await self._store.save(profile, record):
            return False
        key = (profile.merchant_id, profile.livemode)
        if profile.version > self._profiles[key].version:
            self._profiles[key] = profile
        return True


def _merged(table: Profile, changed: Profile | None) -> Profile:
    if changed is None:
        return table
    return replace(
        changed,
        name=table.name,
        settings=changed.settings if changed.settings_version else table.settings,
        table_accounts=table.table_accounts,
    )


def _of_table(merchant: Merchant, defaults: Settings) -> Profile:
    return Profile(
        merchant_id=merchant.merchant_id,
        livemode=merchant.livemode,
        name=merchant.name,
        settings=replace(
            defaults,
            fraud_fail_policy=FailPolicy(merchant.fraud_fail_policy.upper()),
            fraud_review_policy=ReviewPolicy(merchant.fraud_review_policy.upper()),
        ),
        table_accounts=tuple(
            ProcessorAccount(
                processor_account_id=a.processor_account_id,
                processor=a.processor,
                name=a.name,
                fees={
                    currency: Fee(fee.basis_points, fee.fixed_minor_units)
                    for currency, fee in a.fees.items()
                },
                enabled=a.enabled,
                read_only=True,
            )
            for a in merchant.processor_accounts
        ),
    )
