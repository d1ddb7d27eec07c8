"""The accounts whose notices are taken, and the secrets these are signed with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from smartpay_chassis.merchants import Merchants
from smartpay_payments.adapters.merchant_directory import MerchantDirectory
from smartpay_payments.domain.webhooks import WebhookAccount

log = structlog.get_logger()

SECRETS_MAX = 4
"""Two are needed while one replaces another; each costs an HMAC per notice, genuine or not."""


class KnownWebhookAccounts:
    """The port `WebhookAccounts` over all accounts, mounted or added.

    Mounted secret files are read for each notice, so that a changed file counts at once; that is
    one small read beside a commit.

    Args:
        directory: whose each account is.
        table: the mounted table, which names the secret files.
        added_secrets: answers the secrets that were added by ProcessorAccountsService.
    """

    def __init__(
        self,
        directory: MerchantDirectory,
        table: Merchants,
        added_secrets: Callable[[str], Sequence[str]],
    ) -> None:
        self._directory = directory
        self._added_secrets = added_secrets
        self._files = {
            account.processor_account_id: account.webhook_secret_file
            for merchant in table.merchants
            for account in merchant.processor_accounts
        }

    async def find(self, processor: str, processor_account_id: str) -> WebhookAccount | None:
        """Finds an account; one whose secrets can't be read has none, and so takes no notice.

        A disabled account is found too: its earlier charges go on.
        """
        found = self._directory.owner_of(processor_account_id)
        if found is None or found[1].processor != processor:
            return None
        profile, _ = found
        file = self._files.get(processor_account_id)
        mounted = await asyncio.to_thread(_secrets_in, file) if file is not None else ()
        return WebhookAccount(
            processor_account_id=processor_account_id,
            processor=processor,
            merchant_id=profile.merchant_id,
            livemode=profile.livemode,
            secrets=(*mounted, *self._added_secrets(processor_account_id))[:SECRETS_MAX],
        )


def _secrets_in(file: Path) -> tuple[str, ...]:
    """Reads the secrets of a file, one per line."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        log.error("webhook secrets can't be read", error=type(error).__name__)
        return ()
    return tuple(line.strip() for line in text.splitlines() if line.strip())
