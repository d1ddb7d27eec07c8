"""Joins what merchants keep here beside payments: rules, accounts, customers, audit trail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from smartpay.payments.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    customers_pb2,
    customers_pb2_grpc,
    instruments_pb2,
    instruments_pb2_grpc,
    merchants_pb2,
    merchants_pb2_grpc,
    processor_accounts_pb2,
    processor_accounts_pb2_grpc,
)
from smartpay_chassis.calls import Call
from smartpay_chassis.server import App
from smartpay_chassis.settings import EnvironmentSettings
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.account_secrets import AccountSecrets
from smartpay_payments.adapters.aws_secrets import AwsSecrets
from smartpay_payments.adapters.merchant_directory import MerchantDirectory
from smartpay_payments.adapters.secret_files import SecretFiles
from smartpay_payments.adapters.sqlite_audit import SqliteAudit
from smartpay_payments.adapters.sqlite_customers import SqliteCustomers
from smartpay_payments.adapters.sqlite_merchants import SqliteMerchants
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.customers import Erasure
from smartpay_payments.domain.eligibility import MerchantTerms
from smartpay_payments.domain.instrument_setup import InstrumentSetup
from smartpay_payments.domain.instruments import Vault
from smartpay_payments.domain.merchants import Settings
from smartpay_payments.domain.secret_store import SecretStore
from smartpay_payments.domain.versions import Versions
from smartpay_payments.erasing import Eraser
from smartpay_payments.server.audit import AuditServicer, record_of_work
from smartpay_payments.server.customers import CustomersServicer
from smartpay_payments.server.instruments import InstrumentsServicer
from smartpay_payments.server.merchants import MerchantsServicer, profile_of
from smartpay_payments.server.processor_accounts import (
    CredentialReader,
    ProcessorAccountsServicer,
)

if TYPE_CHECKING:
    from smartpay_payments.adapters.sqlite_payments import SqlitePayments

# Payments that an erasure waits for end within minutes to days.
ERASURE_INTERVAL_SECONDS = 30.0


class BackOfficeSettings(EnvironmentSettings):
    """Where the secrets of accounts are kept that merchants add."""

    secrets_folder: str = Field(
        default="",
        validation_alias="PAYMENTS_SECRETS_FOLDER",
        description="Folder for the secrets of added accounts, in development; beside the store"
        " when empty.",
    )
    secrets_prefix: str = Field(
        default="",
        pattern="^[A-Za-z0-9/_-]{0,100}$",
        validation_alias="PAYMENTS_SECRETS_PREFIX",
        description="Begins the names of these secrets in AWS Secrets Manager, for instance"
        " smartpay/prod; empty keeps them in the folder.",
    )


@dataclass(frozen=True, slots=True)
class BackOffice:
    """What the rest of the service asks.

    Attributes:
        directory: what holds for a merchant now.
        secrets: the credentials of accounts that were added.
        store: customers and instruments.
    """

    directory: MerchantDirectory
    secrets: AccountSecrets
    store: SqliteCustomers

    def terms_of_call(self, call: Call) -> MerchantTerms:
        """Answers the rules of the call's merchant."""
        return profile_of(self.directory, call).terms()


def secret_store(app: App, settings: BackOfficeSettings, beside: Path) -> SecretStore:
    """Opens the store of secrets that the settings name."""
    if settings.secrets_prefix:
        aws = AwsSecrets.connect(settings.secrets_prefix, settings.aws_region)
        app.on_stop(aws.close)
        return aws
    folder = settings.secrets_folder or beside.with_name(f"{beside.stem}-secrets")
    return SecretFiles(Path(folder))


async def open_back_office(
    app: App,
    store: SqliteStore,
    payments: SqlitePayments,
    secrets_in: SecretStore,
    defaults: Settings,
) -> BackOffice:
    """Reads merchants and secrets, before the processors that need them are made."""
    directory = await MerchantDirectory.open(
        app.merchants, SqliteMerchants(store, payments.wake_watchers), defaults
    )
    secrets = AccountSecrets(secrets_in)
    for profile in directory.changed():
        for account in profile.accounts:
            await secrets.load(account)
    return BackOffice(directory, secrets, SqliteCustomers(store, payments.wake_watchers))


def serve_back_office(
    app: App,
    office: BackOffice,
    store: SqliteStore,
    versions: Versions,
    vaults: Mapping[str, Vault],
    readers: Mapping[str, CredentialReader],
    now: Callable[[], datetime],
) -> InstrumentSetup:
    """Serves it, and erases customers beside the calls.

    Args:
        app: the service.
        office: as opened.
        store: the embedded store.
        versions: stores what becomes of payments.
        vaults: processors that tie tokens to customers of their own, by name.
        readers: reads credentials of accounts that are added, by processor that is served.
        now: the clock.
    """
    directory = office.directory
    setup = InstrumentSetup(office.store, vaults, now)

    def processor_of(processor_account_id: str) -> str:
        found = directory.owner_of(processor_account_id)
        return "" if found is None else found[1].processor

    def record(before: Erasure, after: Erasure) -> AuditRecord:
        return record_of_work(
            "erasure",
            before.merchant_id,
            before.livemode,
            before.erasure_id,
            {"state": "RUNNING"},
            {"state": "DONE", "erased_payments": after.erased_payments},
            now(),
        )

    eraser = Eraser(
        office.store, versions, vaults, processor_of, record, now, ERASURE_INTERVAL_SECONDS
    )
    app.background("erasures", eraser.run)
    app.serve(
        audit_pb2_grpc.add_AuditServiceServicer_to_server,
        AuditServicer(SqliteAudit(store)),
        audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
    )
    app.serve(
        customers_pb2_grpc.add_CustomersServiceServicer_to_server,
        CustomersServicer(office.store, now, eraser.wake),
        customers_pb2.DESCRIPTOR.services_by_name["CustomersService"],
    )
    app.serve(
        instruments_pb2_grpc.add_InstrumentsServiceServicer_to_server,
        InstrumentsServicer(setup, office.store, directory.get, now),
        instruments_pb2.DESCRIPTOR.services_by_name["InstrumentsService"],
    )
    app.serve(
        merchants_pb2_grpc.add_MerchantsServiceServicer_to_server,
        MerchantsServicer(directory, now),
        merchants_pb2.DESCRIPTOR.services_by_name["MerchantsService"],
    )
    app.serve(
        processor_accounts_pb2_grpc.add_ProcessorAccountsServiceServicer_to_server,
        ProcessorAccountsServicer(directory, office.secrets, readers, now),
        processor_accounts_pb2.DESCRIPTOR.services_by_name["ProcessorAccountsService"],
    )
    return setup
