"""The two clients: one that waits, one for an event loop."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from smartpay_client import _async_resources, _resources, limits
from smartpay_client.async_connection import AsyncConnection
from smartpay_client.chat import AsyncChat, Chat
from smartpay_client.connection import Connection
from smartpay_client.payments import AsyncPayments, Payments
from smartpay_client.session import Session
from smartpay_client.tokens import Credentials, Tokens

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _checked(name: str, url: str) -> str:
    """Refuses an address over which secrets would travel in the clear."""
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not is_safe or not parts.hostname:
        raise ValueError(f"{name} must begin with https:// (http:// only for this machine)")
    return url


def _to_edge(ca_file: str | Path | None, transport: object) -> dict[str, Any]:
    """Answers what connections to the edge are made with."""
    if transport is not None:
        return {"transport": transport}
    context = httpx.create_ssl_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return {
        "verify": context,
        "limits": httpx.Limits(
            max_connections=limits.CONNECTIONS, max_keepalive_connections=limits.CONNECTIONS
        ),
    }


def settings_of(environment: Mapping[str, str]) -> dict[str, Any]:
    """Reads a client's arguments from the environment.

    SMARTPAY_URL, SMARTPAY_TOKEN_URL, SMARTPAY_CLIENT_ID and SMARTPAY_CLIENT_SECRET (or
    SMARTPAY_CLIENT_SECRET_FILE) are needed; SMARTPAY_CA_FILE and SMARTPAY_SCOPES, parted by
    spaces, are not.

    Raises:
        ValueError: naming the variable that is missing, never a value.
    """

    def needed(name: str) -> str:
        if value := environment.get(name, ""):
            return value
        raise ValueError(f"the environment variable {name} is missing")

    secret_file = environment.get("SMARTPAY_CLIENT_SECRET_FILE", "")
    secret = Path(secret_file).read_text().strip() if secret_file else ""
    return {
        "base_url": needed("SMARTPAY_URL"),
        "token_url": needed("SMARTPAY_TOKEN_URL"),
        "client_id": needed("SMARTPAY_CLIENT_ID"),
        "client_secret": secret or needed("SMARTPAY_CLIENT_SECRET"),
        "ca_file": environment.get("SMARTPAY_CA_FILE") or None,
        "scopes": environment.get("SMARTPAY_SCOPES", "").split(),
    }


class Client:
    """Talks to the edge and waits for answers; threads may share one.

    Args:
        base_url: of the edge, for instance https://api.example.com.
        token_url: of the issuer, for Cognito https://<domain>/oauth2/token.
        client_id: of the app client.
        client_secret: of the app client; in no log and no repr.
        scopes: fewer scopes than the client may have; all of them when empty.
        ca_file: authority to trust for the edge besides the public ones.
        deadline: seconds for a call that names none; None for what suits the method.
        transport: carries requests in place of the network, for tests.
        clock: seconds, monotonic, for tests.
        sleep: waits, for tests.
        chance: a number from 0 to 1 per call, for jitter, for tests.

    Raises:
        ValueError: for an address that is not https.
    """

    def __init__(
        self,
        base_url: str,
        token_url: str,
        client_id: str,
        client_secret: str,
        *,
        scopes: Sequence[str] = (),
        ca_file: str | Path | None = None,
        deadline: float | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._base_url = _checked("base_url", base_url)
        token_url = _checked("token_url", token_url)
        self._credentials = Credentials(token_url, client_id, client_secret, tuple(scopes))
        tokens = Tokens(self._credentials, clock, chance)
        self._connection = Connection(
            Session(base_url, tokens, deadline, clock, chance),
            httpx.Client(**_to_edge(ca_file, transport)),
            httpx.Client(transport=transport),
            sleep,
        )
        self.payments = Payments(self._connection)
        self.refunds = _resources.Refunds(self._connection)
        self.disputes = _resources.Disputes(self._connection)
        self.customers = _resources.Customers(self._connection)
        self.instruments = _resources.Instruments(self._connection)
        self.processor_accounts = _resources.ProcessorAccounts(self._connection)
        self.merchant = _resources.Merchants(self._connection)
        self.webhook_endpoints = _resources.WebhookEndpoints(self._connection)
        self.ledger = _resources.Ledger(self._connection)
        self.exports = _resources.Exports(self._connection)
        self.audit = _resources.Audit(self._connection)
        self.fraud = _resources.Fraud(self._connection)
        self.fraud_lists = _resources.FraudLists(self._connection)
        self.fraud_rules = _resources.FraudRules(self._connection)
        self.fraud_policy = _resources.FraudPolicies(self._connection)
        self.fraud_reviews = _resources.FraudReviews(self._connection)
        self.fraud_model = _resources.FraudModel(self._connection)
        self.fraud_audit = _resources.FraudAudit(self._connection)
        self.route = _resources.Route(self._connection)
        self.routing_policy = _resources.RoutingPolicies(self._connection)
        self.routing_evidence = _resources.RoutingEvidence(self._connection)
        self.routing_audit = _resources.RoutingAudit(self._connection)
        self.rewards = _resources.Rewards(self._connection)
        self.chat = Chat(self._connection)

    @classmethod
    def from_environment(cls, **arguments: Any) -> Self:  # noqa: ANN401 - those of the class
        """Makes a client of the SMARTPAY_* variables; see settings_of."""
        return cls(**{**settings_of(os.environ), **arguments})

    def __repr__(self) -> str:
        """Says whose client it is."""
        return f"{type(self).__name__}({self._base_url!r}, {self._credentials.client_id!r})"

    def __enter__(self) -> Self:
        """Answers itself; connections open when they are needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connections."""
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()


class AsyncClient:
    """The same for one event loop; tasks may share one.

    Args:
        base_url: of the edge, for instance https://api.example.com.
        token_url: of the issuer, for Cognito https://<domain>/oauth2/token.
        client_id: of the app client.
        client_secret: of the app client; in no log and no repr.
        scopes: fewer scopes than the client may have; all of them when empty.
        ca_file: authority to trust for the edge besides the public ones.
        deadline: seconds for a call that names none; None for what suits the method.
        transport: carries requests in place of the network, for tests.
        clock: seconds, monotonic, for tests.
        sleep: waits, for tests.
        chance: a number from 0 to 1 per call, for jitter, for tests.

    Raises:
        ValueError: for an address that is not https.
    """

    def __init__(
        self,
        base_url: str,
        token_url: str,
        client_id: str,
        client_secret: str,
        *,
        scopes: Sequence[str] = (),
        ca_file: str | Path | None = None,
        deadline: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._base_url = _checked("base_url", base_url)
        token_url = _checked("token_url", token_url)
        self._credentials = Credentials(token_url, client_id, client_secret, tuple(scopes))
        tokens = Tokens(self._credentials, clock, chance)
        self._connection = AsyncConnection(
            Session(base_url, tokens, deadline, clock, chance),
            httpx.AsyncClient(**_to_edge(ca_file, transport)),
            httpx.AsyncClient(transport=transport),
            sleep,
        )
        self.payments = AsyncPayments(self._connection)
        self.refunds = _async_resources.AsyncRefunds(self._connection)
        self.disputes = _async_resources.AsyncDisputes(self._connection)
        self.customers = _async_resources.AsyncCustomers(self._connection)
        self.instruments = _async_resources.AsyncInstruments(self._connection)
        self.processor_accounts = _async_resources.AsyncProcessorAccounts(self._connection)
        self.merchant = _async_resources.AsyncMerchants(self._connection)
        self.webhook_endpoints = _async_resources.AsyncWebhookEndpoints(self._connection)
        self.ledger = _async_resources.AsyncLedger(self._connection)
        self.exports = _async_resources.AsyncExports(self._connection)
        self.audit = _async_resources.AsyncAudit(self._connection)
        self.fraud = _async_resources.AsyncFraud(self._connection)
        self.fraud_lists = _async_resources.AsyncFraudLists(self._connection)
        self.fraud_rules = _async_resources.AsyncFraudRules(self._connection)
        self.fraud_policy = _async_resources.AsyncFraudPolicies(self._connection)
        self.fraud_reviews = _async_resources.AsyncFraudReviews(self._connection)
        self.fraud_model = _async_resources.AsyncFraudModel(self._connection)
        self.fraud_audit = _async_resources.AsyncFraudAudit(self._connection)
        self.route = _async_resources.AsyncRoute(self._connection)
        self.routing_policy = _async_resources.AsyncRoutingPolicies(self._connection)
        self.routing_evidence = _async_resources.AsyncRoutingEvidence(self._connection)
        self.routing_audit = _async_resources.AsyncRoutingAudit(self._connection)
        self.rewards = _async_resources.AsyncRewards(self._connection)
        self.chat = AsyncChat(self._connection)

    @classmethod
    def from_environment(cls, **arguments: Any) -> Self:  # noqa: ANN401 - those of the class
        """Makes a client of the SMARTPAY_* variables; see settings_of."""
        return cls(**{**settings_of(os.environ), **arguments})

    def __repr__(self) -> str:
        """Says whose client it is."""
        return f"{type(self).__name__}({self._base_url!r}, {self._credentials.client_id!r})"

    async def __aenter__(self) -> Self:
        """Answers itself; connections open when they are needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connections."""
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._connection.close()
