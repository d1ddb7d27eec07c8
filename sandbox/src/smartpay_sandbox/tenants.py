"""The merchants of a development mesh: who they are, where they charge, who signs in for them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from smartpay_chassis.ids import derive
from smartpay_chassis.merchants import Fee, Merchant, Merchants, ProcessorAccount
from smartpay_sandbox.run_folder import RunFolder, write_whole

CELL = "d1"
SOLANA = "solana"
AMAZON_PAY = "amazon_pay"
# As the sandbox names the topic of a merchant's notifications.
AMAZON_PAY_TOPIC = "arn:aws:sns:us-east-1:000000000000:"
WEBHOOK_SIGNING_KEY = "webhook-signing-key"
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
        accounts: Stripe accounts, each with basis points and fixed minor units per currency.
        solana: the same of its account on Solana; without currencies it has none.
        amazon_pay: the same of its account at Amazon Pay.
    """

    name: str
    clients: Mapping[str, tuple[str, ...]]
    accounts: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    solana: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    amazon_pay: Mapping[str, tuple[int, int]] = field(default_factory=dict)

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

    def webhook_secret_name(self, account: str) -> str:
        """Names the file with what the account's webhooks are signed with."""
        return f"webhook-{self.name}-{account}"

    @property
    def amazon_pay_secret(self) -> str:
        """Names the file with its Amazon Pay credentials."""
        return f"amazon-pay-{self.name}.json"

    def secret_name(self, account: str) -> str:
        """Names the file with the account's secret key."""
        return f"stripe-{self.name}-{account}"


_PRIMARY = {"USD": (290, 30), "EUR": (290, 30), "GBP": (290, 30), "JPY": (360, 0)}
_BACKUP = {"USD": (320, 30), "EUR": (320, 30), "GBP": (320, 30), "JPY": (380, 0)}
DEMO = Tenant(
    "demo",
    {"demo": SCOPES, "readonly": ("payments.read",)},
    {"primary": _PRIMARY, "backup": _BACKUP},
    # The payer pays the chain, and the wallet is the merchant's own: nobody keeps a fee.
    {"USDC": (0, 0), "SOL": (0, 0)},
    _PRIMARY,
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


def write_webhooks(run: RunFolder, edge: str) -> None:
    """Makes each Stripe account's signing secret once, and tells the sandbox where to send.

    Args:
        run: where to.
        edge: the edge's address.
    """
    rows = []
    for tenant in TENANTS:
        for account in tenant.accounts:
            file = run.secret(tenant.webhook_secret_name(account))
            if not file.exists():
                write_whole(file, f"whsec_{secrets.token_hex(24)}", mode=0o600)
            url = f"{edge}/webhooks/stripe/{tenant.account_id(account)}"
            rows.append(
                {"account": tenant.stripe_id(account), "url": url, "secret": file.read_text()}
            )
        if tenant.amazon_pay:
            file = run.secret(tenant.webhook_secret_name(AMAZON_PAY))
            write_whole(file, f"{AMAZON_PAY_TOPIC}A{tenant.name.upper()}", mode=0o600)
    write_whole(run.secret("stripe-webhooks.json"), json.dumps(rows), mode=0o600)
    key = run.secret(WEBHOOK_SIGNING_KEY)
    if not key.exists():
        write_whole(key, secrets.token_hex(32), mode=0o600)


def write_amazon_pay_keys(run: RunFolder, edge: str = "") -> None:
    """Makes each merchant's Amazon Pay credentials once, and tells the sandbox about them.

    Args:
        run: where to.
        edge: the edge's address, for notifications; without it there are none.
    """
    rows = []
    for tenant in TENANTS:
        if not tenant.amazon_pay:
            continue
        file = run.secret(tenant.amazon_pay_secret)
        if not file.exists():
            write_whole(file, json.dumps(_amazon_pay_credentials(tenant)), mode=0o600)
        made = json.loads(file.read_text())
        key = load_pem_private_key(
            made["private_key"].encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        names = ("merchant_id", "store_id", "public_key_id")
        url = f"{edge}/webhooks/amazon_pay/{tenant.account_id(AMAZON_PAY)}"
        rows.append(
            {name: made[name] for name in names}
            | {"public_key": public.decode()}
            | ({"notify_url": url} if edge else {})
        )
    write_whole(run.secret("amazon-pay-merchants.json"), json.dumps(rows), mode=0o600)


def _amazon_pay_credentials(tenant: Tenant) -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "public_key_id": f"SANDBOX-{tenant.name.upper()}",
        "private_key": private.decode(),
        "store_id": f"amzn1.application-oa2-client.{tenant.name}",
        "merchant_id": f"A{tenant.name.upper()}",
        "region": "na",
    }


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
                processor_accounts=tuple(_processor_accounts(run, tenant)),
            )
            for tenant in TENANTS
        )
    )
    write_whole(run.merchants, merchants.model_dump_json(indent=1))


def _processor_accounts(run: RunFolder, tenant: Tenant) -> Iterator[ProcessorAccount]:
    for account, fees in tenant.accounts.items():
        yield ProcessorAccount(
            processor_account_id=tenant.account_id(account),
            processor="stripe",
            name=account,
            fees=_fees(fees),
            secret_file=run.secret(tenant.secret_name(account)),
            webhook_secret_file=run.secret(tenant.webhook_secret_name(account)),
        )
    if tenant.amazon_pay:
        yield ProcessorAccount(
            processor_account_id=tenant.account_id(AMAZON_PAY),
            processor="amazon_pay",
            name=AMAZON_PAY,
            fees=_fees(tenant.amazon_pay),
            secret_file=run.secret(tenant.amazon_pay_secret),
            webhook_secret_file=run.secret(tenant.webhook_secret_name(AMAZON_PAY)),
        )
    if tenant.solana:
        # Without a secret file it is paid on the treasury wallet.
        yield ProcessorAccount(
            processor_account_id=tenant.account_id(SOLANA),
            processor="solana",
            name=SOLANA,
            fees=_fees(tenant.solana),
        )


def _fees(fees: Mapping[str, tuple[int, int]]) -> dict[str, Fee]:
    return {
        currency: Fee(basis_points=share, fixed_minor_units=fixed)
        for currency, (share, fixed) in fees.items()
    }
