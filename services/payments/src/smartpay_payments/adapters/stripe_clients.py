"""The SDK's clients, one per Stripe account, made when they are first asked for."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
import stripe

# Otherwise the SDK writes an id into the home folder and sends the platform with each call.
stripe.enable_telemetry = False

# The SDK lets a connection that breaks within the body through as it is.
NO_ANSWER = (stripe.APIConnectionError, aiohttp.ClientError, TimeoutError)
FAILURES = (stripe.StripeError, *NO_ANSWER)


class StripeClients:
    """Clients by processor account id. New accounts and changed keys count at once.

    Args:
        keys: secret key by processor account id; read anew for each call.
        api_base: Stripe's address, or the sandbox's.
        timeout_seconds: of one call.
    """

    def __init__(self, keys: Mapping[str, str], api_base: str, timeout_seconds: float) -> None:
        self._keys = keys
        self._api_base = api_base
        self._http = stripe.AIOHTTPClient(timeout=timeout_seconds)
        self._clients: dict[str, tuple[str, stripe.StripeClient]] = {}

    def __getitem__(self, processor_account_id: str) -> stripe.StripeClient:
        """Answers an account's client; raises KeyError when the account has no key."""
        key = self._keys[processor_account_id]
        known = self._clients.get(processor_account_id)
        if known is None or known[0] != key:
            # A retry is a decision of the story, with the stored key and body.
            client = stripe.StripeClient(
                key,
                base_addresses={"api": self._api_base},
                http_client=self._http,
                max_network_retries=0,
            )
            known = self._clients[processor_account_id] = (key, client)
        return known[1]

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]
