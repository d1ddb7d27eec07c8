"""All tables of the embedded store, in the order in which they came."""

from __future__ import annotations

from smartpay_payments.adapters import (
    sqlite_audit,
    sqlite_customers,
    sqlite_ledger,
    sqlite_merchants,
    sqlite_payments,
    sqlite_reward_watch,
    sqlite_search,
    sqlite_versions,
    sqlite_webhook_deliveries,
    sqlite_webhook_endpoints,
    sqlite_webhooks,
)

MIGRATIONS = [
    *sqlite_payments.MIGRATIONS,
    *sqlite_ledger.MIGRATIONS,
    *sqlite_search.MIGRATIONS,
    *sqlite_reward_watch.MIGRATIONS,
    *sqlite_webhooks.MIGRATIONS,
    *sqlite_audit.MIGRATIONS,
    *sqlite_merchants.MIGRATIONS,
    *sqlite_customers.MIGRATIONS,
    *sqlite_webhook_endpoints.MIGRATIONS,
    *sqlite_webhook_deliveries.MIGRATIONS,
    *sqlite_audit.LATER_MIGRATIONS,
    *sqlite_payments.LATER_MIGRATIONS,
    *sqlite_versions.MIGRATIONS,
]
