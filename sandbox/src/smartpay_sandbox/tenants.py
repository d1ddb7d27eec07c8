"""The merchants of a development mesh: who they are, where they charge, who signs in for them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from smartpay_chassis.ids import derive
from smartpay_chassis.merchants import Fee, Merchant, Merchants, ProcessorAccount
from smartpay_sandbox.run_folder import RunFolder, write_whole

CELL = "d1"
RESOURCE_SERVER = "smartpay"
SCOPES = (
    "fraud.score",
    "route.choose",
    "payments.read",
    "payments.write",
    "payments.refund",
    "rewards.write",
    "chat",
    "admin",
)


@dataclass(frozen=True)
class Tenant:
    """One merchant of the development mesh.

    Attributes:
        name: short; names secrets and clients.
        clients: Cognito app clients that act for it, each with its scopes.
        accounts: processor accounts, each with basis points and fixed minor units per currency.
    """

    name: str
    clients: Mapping[str, tuple[str, ...]]
    accounts: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)

    @property
    def merchant_id(self) -> str:
        """The same id on every machine, so that examples can name it."""
        return derive("mer", CELL, self.name)

    def account_id(self, account: str) -> str:
        """Names one of its processor accounts."""
        return derive("pac", CELL, self.name, account)

    def stripe_id(self, account: str) -> str:
        """Names the account on Stripe's side."""
        return f"acct_{self.name}_{account}"

    def secret_name(self, account: str) -> str:
        """Names the file with the account's secret key."""
        return f"stripe-{self.name}-{account}"


_PRIMARY = {"USD": (290, 30), "EUR": (290, 30), "GBP": (290, 30), "JPY": (360, 0)}
_BACKUP = {"USD": (320, 30), "EUR": (320, 30), "GBP": (320, 30), "JPY": (380, 0)}
DEMO = Tenant(
    "demo",
    {"demo": SCOPES, "readonly": ("payments.read",)},
    {"primary": _PRIMARY, "backup": _BACKUP},
)
OTHER = Tenant("other", {"other": SCOPES}, {"primary": _PRIMARY})
TENANTS = (DEMO, OTHER)
# A client of the same pool that the edge does not know: a good token of somebody else's app.
FOREIGN_CLIENTS: Mapping[str, tuple[str, ...]] = {"foreign": SCOPES}


def clients() -> dict[str, tuple[str, ...]]:
    """Lists all app clients with their scopes."""
    ours = {name: scopes for tenant in TENANTS for name, scopes in tenant.clients.items()}
    return ours | dict(FOREIGN_CLIENTS)


def write_stripe_keys(run: RunFolder) -> None:
    """Makes each account's secret key once, and tells the sandbox about the accounts."""
    rows = []
    for tenant in TENANTS:
        for account in tenant.accounts:
            file = run.secret(tenant.secret_name(account))
            if not file.exists():
                write_whole(file, f"sk_test_{secrets.token_hex(24)}", mode=0o600)
            rows.append({"id": tenant.stripe_id(account), "secret_key": file.read_text()})
    write_whole(run.secret("stripe-accounts.json"), json.dumps(rows), mode=0o600)


def write_merchants(run: RunFolder, client_ids: Mapping[str, str]) -> None:
    """Writes the table of merchants that every service mounts.

    Args:
        run: where to.
        client_ids: Cognito's id of each app client, by our name.
    """
    merchants = Merchants(
        merchants=tuple(
            Merchant(
                merchant_id=tenant.merchant_id,
                name=tenant.name,
                livemode=False,
                clients=tuple(client_ids[name] for name in tenant.clients),
                processor_accounts=tuple(
                    ProcessorAccount(
                        processor_account_id=tenant.account_id(account),
                        processor="stripe",
                        name=account,
                        fees={
                            currency: Fee(basis_points=share, fixed_minor_units=fixed)
                            for currency, (share, fixed) in fees.items()
                        },
                        secret_file=run.secret(tenant.secret_name(account)),
                    )
                    for account, fees in tenant.accounts.items()
                ),
            )
            for tenant in TENANTS
        )
    )
    write_whole(run.merchants, merchants.model_dump_json(indent=1))
