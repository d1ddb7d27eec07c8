"""The secrets of accounts that were added, in memory for the processors that use them.

They are kept in the secret store. Each change makes a secret of another name, so that one that is
not stored in the end, or loses a race, has overwritten nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import structlog

from smartpay_payments.domain.merchants import ProcessorAccount
from smartpay_payments.domain.secret_store import SecretStore

log = structlog.get_logger()

T = TypeVar("T")


class AccountSecrets:
    """Keeps and answers the secrets of added accounts.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._processors: dict[str, str] = {}
        self._credentials: dict[str, Mapping[str, str]] = {}
        self._webhook_secrets: dict[str, Mapping[str, str]] = {}

    async def load(self, account: ProcessorAccount) -> None:
        """Reads an added account's secrets into memory, at the start and after each change.

        An account whose credentials are gone is left out: it is not charged, and says so.
        """
        account_id = account.processor_account_id
        text = await self._store.get(_credentials_name(account))
        if text is None:
            log.error("an account's credentials are gone", processor_account_id=account_id)
            self._credentials.pop(account_id, None)
        else:
            self._credentials[account_id] = json.loads(text)
            self._processors[account_id] = account.processor
        self._webhook_secrets[account_id] = await self._read_webhook_secrets(account)

    def credentials(self, processor: str, processor_account_id: str) -> Mapping[str, str]:
        """Answers an account's credentials by field; raises KeyError when there are none."""
        if self._processors.get(processor_account_id) != processor:
            raise KeyError(processor_account_id)
        return self._credentials[processor_account_id]

    def accounts(self, processor: str) -> list[str]:
        """Lists the accounts of a processor that have credentials."""
        return [a for a in self._credentials if self._processors[a] == processor]

    def webhook_secrets(self, processor_account_id: str) -> Sequence[str]:
        """Answers the secrets that an account's notices may be signed with."""
        return tuple(self._webhook_secrets.get(processor_account_id, {}).values())

    # ---- written before the profile that names them ------------------------------------------

    async def put_credentials(self, account: ProcessorAccount, fields: Mapping[str, str]) -> None:
        """Keeps credentials under the account's credentials_id."""
        await self._store.put(_credentials_name(account), json.dumps(dict(fields)))

    async def put_webhook_secrets(
        self, account: ProcessorAccount, secrets: Mapping[str, str]
    ) -> None:
        """Keeps webhook secrets by id under the account's webhooks_id."""
        await self._store.put(_webhooks_name(account), json.dumps(dict(secrets)))

    async def present_webhook_secrets(self, account: ProcessorAccount) -> dict[str, str]:
        """Reads an account's webhook secrets by id."""
        return await self._read_webhook_secrets(account)

    async def forget(self, before: ProcessorAccount, after: ProcessorAccount) -> None:
        """Removes what a stored change has replaced."""
        if before.credentials_id != after.credentials_id:
            await self._store.delete(_credentials_name(before))
        if before.webhooks_id and before.webhooks_id != after.webhooks_id:
            await self._store.delete(_webhooks_name(before))

    async def _read_webhook_secrets(self, account: ProcessorAccount) -> dict[str, str]:
        if not account.webhooks_id:
            return {}
        text = await self._store.get(_webhooks_name(account))
        found: dict[str, str] = {} if text is None else json.loads(text)
        return found


class AccountView(Mapping[str, T], Generic[T]):
    """What a processor needs of its accounts: the mounted ones, and those added since.

    Args:
        processor: whose accounts, for instance "stripe".
        mounted: what was read at the start of the accounts of the mounted table.
        secrets: those of added accounts; asked anew for each call.
        read: makes of the fields of the contract's credentials what the processor needs.
    """

    def __init__(
        self,
        processor: str,
        mounted: Mapping[str, T],
        secrets: AccountSecrets,
        read: Callable[[Mapping[str, str]], T],
    ) -> None:
        self._processor = processor
        self._mounted = mounted
        self._secrets = secrets
        self._read = read
        self._known: dict[str, tuple[Mapping[str, str], T]] = {}

    def __getitem__(self, processor_account_id: str) -> T:
        """Answers what an account has; raises KeyError when it has no such credentials."""
        if processor_account_id in self._mounted:
            return self._mounted[processor_account_id]
        fields = self._secrets.credentials(self._processor, processor_account_id)
        known = self._known.get(processor_account_id)
        if known is None or known[0] is not fields:
            # Reading a private key takes longer than a call.
            known = self._known[processor_account_id] = (fields, self._read(fields))
        return known[1]

    def __iter__(self) -> Iterator[str]:
        """Lists the accounts."""
        return iter((*self._mounted, *self._secrets.accounts(self._processor)))

    def __len__(self) -> int:
        """Counts the accounts."""
        return len(self._mounted) + len(self._secrets.accounts(self._processor))


def _credentials_name(account: ProcessorAccount) -> str:
    return f"{account.processor_account_id}/{account.credentials_id}"


def _webhooks_name(account: ProcessorAccount) -> str:
    return f"{account.processor_account_id}/{account.webhooks_id}"
