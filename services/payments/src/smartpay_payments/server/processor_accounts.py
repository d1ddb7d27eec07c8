"""Speaks the contract of processor accounts. Secrets go to the secret store and no further."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from smartpay.payments.v1 import processor_accounts_pb2 as contract
from smartpay.payments.v1 import processor_accounts_pb2_grpc
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import new
from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.idempotency import request_hash
from smartpay_payments.domain.merchants import (
    WEBHOOK_SECRETS_MAX,
    Fee,
    ProcessorAccount,
    Profile,
    WebhookSecretName,
    check_currencies,
    check_etag,
    check_mode,
    credentials_refused,
    limit_reached,
)
from smartpay_payments.messages import PROCESSORS, timestamp
from smartpay_payments.server.audit import record_of_call
from smartpay_payments.server.customers import derived

CredentialReader = Callable[[Mapping[str, str], bool], object]
"""Reads an account's credentials for live (True) or test; raises ValueError, without a secret."""

Context = object  # gRPC's own context is the interceptors' business
# Each loss means that another change of the same merchant was stored.
TRIES = 8


class Directory(Protocol):
    """All merchants as they are now."""

    def get(self, merchant_id: str, livemode: bool) -> Profile | None:
        """Finds a merchant's test or live profile."""
        ...

    async def save(self, profile: Profile, record: AuditRecord) -> bool:
        """Stores a profile's next version; answers False when somebody else was faster."""
        ...


class Secrets(Protocol):
    """Where the accounts' secrets go."""

    async def put_credentials(self, account: ProcessorAccount, fields: Mapping[str, str]) -> None:
        """Keeps credentials under the account's credentials_id."""
        ...

    async def put_webhook_secrets(
        self, account: ProcessorAccount, secrets: Mapping[str, str]
    ) -> None:
        """Keeps webhook secrets by id under the account's webhooks_id."""
        ...

    async def present_webhook_secrets(self, account: ProcessorAccount) -> dict[str, str]:
        """Reads an account's webhook secrets by id."""
        ...

    async def load(self, account: ProcessorAccount) -> None:
        """Makes a stored account's secrets those in use."""
        ...

    async def forget(self, before: ProcessorAccount, after: ProcessorAccount) -> None:
        """Removes what a stored change has replaced."""
        ...


class ProcessorAccountsServicer(processor_accounts_pb2_grpc.ProcessorAccountsServiceServicer):
    """Serves the contract.

    Args:
        directory: all merchants as they are now.
        secrets: where the accounts' secrets go.
        readers: by processor that is served here; see CredentialReader.
        clock: the time, aware.
    """

    def __init__(
        self,
        directory: Directory,
        secrets: Secrets,
        readers: Mapping[str, CredentialReader],
        clock: Callable[[], datetime],
    ) -> None:
        self._directory = directory
        self._secrets = secrets
        self._readers = readers
        self._clock = clock

    async def CreateProcessorAccount(
        self, request: contract.CreateProcessorAccountRequest, context: Context
    ) -> contract.CreateProcessorAccountResponse:
        """Adds an account."""
        call = current_call()
        now = self._clock()
        processor, fields = self._credentials_of(request.credentials, call.livemode)
        check_currencies(processor, [f.currency_code for f in request.fees])
        account = ProcessorAccount(
            processor_account_id=derived(call, "pac", "CreateProcessorAccount"),
            processor=processor,
            name=request.name,
            fees=_fees_of(request.fees),
            enabled=not request.disabled,
            request_hash=request_hash(request.SerializeToString(deterministic=True)),
            credentials_id=new("crd", call.merchant_id[4:6]),
            credentials_time=now,
            create_time=now,
            update_time=now,
        )
        for _ in range(TRIES):
            before = self._profile(call)
            held = _held(before, account.processor_account_id)
            if held is not None:
                if held.request_hash != account.request_hash:
                    raise idempotency_key_reused()
                call.respond_with(headers={"idempotent-replayed": "true"})
                return contract.CreateProcessorAccountResponse(
                    processor_account=_told(call, held, 201)
                )
            after = before.with_account(account, now)
            await self._secrets.put_credentials(account, fields)
            record = record_of_call(call, account.processor_account_id, {}, account.facts(), now)
            if await self._directory.save(after, record):
                await self._secrets.load(account)
                return contract.CreateProcessorAccountResponse(
                    processor_account=_told(call, account, 201)
                )
        raise _changed_meanwhile()

    async def GetProcessorAccount(
        self, request: contract.GetProcessorAccountRequest, context: Context
    ) -> contract.GetProcessorAccountResponse:
        """Shows an account."""
        call = current_call()
        account = self._profile(call).account(request.processor_account_id)
        return contract.GetProcessorAccountResponse(processor_account=_told(call, account))

    async def ListProcessorAccounts(
        self, request: contract.ListProcessorAccountsRequest, context: Context
    ) -> contract.ListProcessorAccountsResponse:
        """Lists all accounts."""
        call = current_call()
        return contract.ListProcessorAccountsResponse(
            processor_accounts=[
                account_message(a, call.livemode) for a in self._profile(call).all_accounts()
            ]
        )

    async def UpdateProcessorAccount(
        self, request: contract.UpdateProcessorAccountRequest, context: Context
    ) -> contract.UpdateProcessorAccountResponse:
        """Changes what is given."""
        call = current_call()

        async def change(account: ProcessorAccount) -> ProcessorAccount:
            check_etag(request.etag, account.etag)
            check_currencies(account.processor, [f.currency_code for f in request.fees])
            changed = replace(
                account,
                name=request.name if request.HasField("name") else account.name,
                fees=_fees_of(request.fees) if request.fees else account.fees,
                enabled=request.enabled if request.HasField("enabled") else account.enabled,
            )
            if not request.HasField("credentials"):
                return changed
            processor, fields = self._credentials_of(request.credentials, call.livemode)
            if processor != account.processor:
                raise credentials_refused(
                    "The credentials are of another processor than the account.",
                    "Send the processor's own credentials, or add another account.",
                )
            changed = replace(
                changed,
                credentials_id=new("crd", call.merchant_id[4:6]),
                credentials_time=self._clock(),
            )
            await self._secrets.put_credentials(changed, fields)
            return changed

        account = await self._change(call, request.processor_account_id, change)
        return contract.UpdateProcessorAccountResponse(processor_account=_told(call, account))

    async def DisableProcessorAccount(
        self, request: contract.DisableProcessorAccountRequest, context: Context
    ) -> contract.DisableProcessorAccountResponse:
        """Takes no new charges at an account."""
        call = current_call()

        async def change(account: ProcessorAccount) -> ProcessorAccount:
            return replace(account, enabled=False)

        account = await self._change(call, request.processor_account_id, change)
        return contract.DisableProcessorAccountResponse(processor_account=_told(call, account))

    async def AddWebhookSecret(
        self, request: contract.AddWebhookSecretRequest, context: Context
    ) -> contract.AddWebhookSecretResponse:
        """Adds a webhook secret."""
        call = current_call()
        cell = call.merchant_id[4:6]

        async def change(account: ProcessorAccount) -> ProcessorAccount:
            present = await self._secrets.present_webhook_secrets(account)
            if request.webhook_secret in present.values():
                return account
            if len(present) >= WEBHOOK_SECRETS_MAX:
                raise limit_reached("webhook secrets of the account", WEBHOOK_SECRETS_MAX)
            name = WebhookSecretName(new("whs", cell), self._clock())
            changed = replace(
                account,
                webhook_secrets=(*account.webhook_secrets, name),
                webhooks_id=new("whs", cell),
            )
            secrets = {**present, name.webhook_secret_id: request.webhook_secret}
            await self._secrets.put_webhook_secrets(changed, secrets)
            return changed

        account = await self._change(call, request.processor_account_id, change)
        return contract.AddWebhookSecretResponse(processor_account=_told(call, account))

    async def RemoveWebhookSecret(
        self, request: contract.RemoveWebhookSecretRequest, context: Context
    ) -> contract.RemoveWebhookSecretResponse:
        """Removes a webhook secret."""
        call = current_call()

        async def change(account: ProcessorAccount) -> ProcessorAccount:
            present = await self._secrets.present_webhook_secrets(account)
            if present.pop(request.webhook_secret_id, None) is None:
                raise Refusal(
                    Kind.NOT_FOUND,
                    "WEBHOOK_SECRET_NOT_FOUND",
                    "The account has no such webhook secret.",
                    remedy="Read the account, and name one of its webhook secrets.",
                    field="webhook_secret_id",
                )
            changed = replace(
                account,
                webhook_secrets=tuple(
                    s for s in account.webhook_secrets if s.webhook_secret_id in present
                ),
                webhooks_id=new("whs", call.merchant_id[4:6]),
            )
            await self._secrets.put_webhook_secrets(changed, present)
            return changed

        account = await self._change(call, request.processor_account_id, change)
        return contract.RemoveWebhookSecretResponse(processor_account=_told(call, account))

    async def _change(
        self,
        call: Call,
        processor_account_id: str,
        change: Callable[[ProcessorAccount], Awaitable[ProcessorAccount]],
    ) -> ProcessorAccount:
        """Stores what `change` makes of an account; answers the account after it."""
        for _ in range(TRIES):
            profile = self._profile(call)
            before = profile.own_account(processor_account_id)
            after = await change(before)
            if after == before:
                return before
            now = self._clock()
            after = replace(after, version=before.version + 1, update_time=now)
            record = record_of_call(call, processor_account_id, before.facts(), after.facts(), now)
            if await self._directory.save(profile.with_account(after, now), record):
                await self._secrets.load(after)
                await self._secrets.forget(before, after)
                return after
        raise _changed_meanwhile()

    def _credentials_of(
        self, message: contract.ProcessorCredentials, livemode: bool
    ) -> tuple[str, dict[str, str]]:
        """Reads processor and secret fields; raises Refusal for what can't be used."""
        processor = message.WhichOneof("credentials")
        reader = self._readers.get(processor or "")
        if processor is None or reader is None:
            raise credentials_refused(
                "No processor that is served here has such credentials.",
                "Send the credentials of one processor that the operator has set up.",
            )
        given = getattr(message, processor)
        fields = {field.name: getattr(given, field.name) for field in given.DESCRIPTOR.fields}
        check_mode(processor, fields, livemode)
        try:
            reader(fields, livemode)
        except ValueError as error:
            raise credentials_refused(
                f"The credentials can't be used: {error}.",
                "Correct them and send the request again.",
            ) from None
        return processor, fields

    def _profile(self, call: Call) -> Profile:
        profile = self._directory.get(call.merchant_id, call.livemode)
        assert profile is not None  # the interceptor lets no call of a stranger through
        return profile


def account_message(account: ProcessorAccount, livemode: bool) -> contract.ProcessorAccount:
    """Spells an account, without its secrets."""
    return contract.ProcessorAccount(
        processor_account_id=account.processor_account_id,
        processor=PROCESSORS[account.processor],
        name=account.name,
        fees=[
            contract.ProcessorFee(
                currency_code=currency,
                basis_points=fee.basis_points,
                fixed_minor_units=fee.fixed_minor_units,
            )
            for currency, fee in sorted(account.fees.items())
        ],
        enabled=account.enabled,
        livemode=livemode,
        read_only=account.read_only,
        webhook_secrets=[
            contract.WebhookSecret(
                webhook_secret_id=s.webhook_secret_id, create_time=timestamp(s.create_time)
            )
            for s in account.webhook_secrets
        ],
        credentials_time=timestamp(account.credentials_time),
        create_time=timestamp(account.create_time),
        update_time=timestamp(account.update_time),
        etag=account.etag,
    )


def _told(
    call: Call, account: ProcessorAccount, http_status: int | None = None
) -> contract.ProcessorAccount:
    headers = {"etag": account.etag}
    if http_status == 201:
        headers["location"] = f"/processor_accounts/{account.processor_account_id}"
    call.respond_with(http_status=http_status, headers=headers)
    return account_message(account, call.livemode)


def _held(profile: Profile, processor_account_id: str) -> ProcessorAccount | None:
    return next(
        (a for a in profile.accounts if a.processor_account_id == processor_account_id), None
    )


def _fees_of(fees: Sequence[contract.ProcessorFee]) -> dict[str, Fee]:
    found = {f.currency_code: Fee(f.basis_points, f.fixed_minor_units) for f in fees}
    if len(found) != len(fees):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "FIELD_INVALID",
            "A currency has two fees.",
            remedy="Send one fee per currency.",
            field="fees",
        )
    return found


def _changed_meanwhile() -> Refusal:
    return Refusal(
        Kind.ABORTED,
        "ETAG_MISMATCH",
        "Others change the merchant's accounts at the same time.",
        remedy="Wait a moment and repeat the call with the same idempotency key.",
    )
