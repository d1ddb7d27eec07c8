"""Joins the rails: every processor with the credentials of all its accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from smartpay_chassis.merchants import Merchants
from smartpay_chassis.server import App
from smartpay_chassis.settings import SettingsError
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments import amazon_pay_rail, solana_rail
from smartpay_payments.adapters.account_secrets import AccountView
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.stripe_books import StripeBooks
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.amazon_pay_rail import build_amazon_pay
from smartpay_payments.back_office import BackOffice, open_back_office, secret_store
from smartpay_payments.domain.merchants import Settings as MerchantSettings
from smartpay_payments.domain.processor import Processor
from smartpay_payments.domain.reconciliation import ProcessorBooks
from smartpay_payments.domain.settlement import SettlementSource
from smartpay_payments.server.processor_accounts import CredentialReader
from smartpay_payments.settings import PaymentsSettings
from smartpay_payments.solana_rail import build_solana


@dataclass(frozen=True, slots=True)
class Rails:
    """What charges, and what holds for the merchants it charges for.

    Attributes:
        office: merchants, their accounts and their secrets.
        processors: by name, for instance "stripe".
        stripe: the same Stripe, for what only it offers.
        books: by name, those that list all charges.
        partial_books: by name, those that list some; the others are asked for.
        settlements: by name, those that tell what they settle.
    """

    office: BackOffice
    processors: dict[str, Processor]
    stripe: StripeProcessor
    books: dict[str, ProcessorBooks]
    partial_books: dict[str, ProcessorBooks]
    settlements: dict[str, SettlementSource]


def stripe_keys(merchants: Merchants, settings: PaymentsSettings) -> dict[str, str]:
    """Reads the secret key of every Stripe account; raises SettingsError naming one without."""
    keys: dict[str, str] = {}
    for merchant in merchants.merchants:
        for account in merchant.processor_accounts:
            if account.processor != "stripe":
                continue
            key = (
                account.secret_file.read_text().strip()
                if account.secret_file is not None
                else settings.stripe_secret_key.get_secret_value()
            )
            if not key:
                raise SettingsError(
                    f"account {account.processor_account_id} has no secret file"
                    " and STRIPE_SECRET_KEY is not set"
                )
            keys[account.processor_account_id] = key
    return keys


def added_stripe_key(fields: Mapping[str, str]) -> str:
    """Reads the secret key of an account that a merchant added."""
    return fields["secret_key"]


def credential_readers(settings: PaymentsSettings) -> dict[str, CredentialReader]:
    """Answers who reads the credentials of added accounts, by processor that is served here."""

    def solana(fields: Mapping[str, str], livemode: bool) -> object:
        if livemode is not settings.solana_livemode:
            raise ValueError("this chain serves the other mode")
        return solana_rail.added_account(fields)

    readers: dict[str, CredentialReader] = {
        "stripe": lambda fields, _: added_stripe_key(fields),
        "amazon_pay": lambda fields, _: amazon_pay_rail.added_account(fields),
    }
    return {**readers, "solana": solana} if settings.solana_rpc_url else readers


async def open_rails(
    app: App,
    settings: PaymentsSettings,
    store: SqliteStore,
    payments: SqlitePayments,
    now: Callable[[], datetime],
) -> Rails:
    """Opens every rail that is configured; what it opens is closed when the app stops."""
    office = await open_back_office(
        app,
        store,
        payments,
        secret_store(app, settings, settings.store_path),
        MerchantSettings(
            attempts_max=settings.cascade_attempts_max,
            cascade_seconds=int(settings.cascade_seconds),
        ),
    )
    stripe = StripeProcessor(
        AccountView(
            "stripe",
            stripe_keys(app.merchants, settings),
            office.secrets,
            added_stripe_key,
        ),
        settings.stripe_api_base,
        settings.stripe_return_url,
        settings.stripe_timeout_seconds,
        now,
    )
    app.on_stop(stripe.close)
    amazon_pay, reports = build_amazon_pay(app.merchants, settings, office.secrets, now)
    app.on_stop(amazon_pay.close)
    stripe_books = StripeBooks(stripe.clients)
    partial_books: dict[str, ProcessorBooks] = {"amazon_pay": reports}
    processors: dict[str, Processor] = {"stripe": stripe, "amazon_pay": amazon_pay}
    if (solana := build_solana(app.merchants, settings, office.secrets)) is not None:
        processors["solana"], partial_books["solana"] = solana
        app.on_stop(solana[0].close)
    return Rails(
        office,
        processors,
        stripe,
        books={"stripe": stripe_books},
        partial_books=partial_books,
        settlements={"stripe": stripe_books, "amazon_pay": reports},
    )
