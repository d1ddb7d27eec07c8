"""Notices come in and events go out, through real Envoys and both vendors' own wire."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.mesh

# Far below the minute after which a payment that waits for its payer is looked at anyway.
SOON_SECONDS = 20.0


async def soon(look: Callable[[], Awaitable[Any]]) -> Any:
    """Waits until something is there."""
    async with asyncio.timeout(SOON_SECONDS):
        while not (found := await look()):
            await asyncio.sleep(0.1)
    return found


def key() -> dict[str, str]:
    return {"idempotency-key": str(uuid.uuid4())}


async def test_a_payers_challenge_ends_the_payment_without_anybody_asking(edge: Any) -> None:
    tokens = [{"processorAccountId": edge.accounts[0], "token": "pm_card_authenticationRequired"}]
    async with edge.session() as client, httpx.AsyncClient() as payer:
        order = edge.order(instrument={"tokens": tokens})
        made = (await client.post("/pay", json=order, headers=key())).json()
        assert made["status"] == "STATUS_REQUIRES_ACTION"
        page = made["nextAction"]["redirectToUrl"]["url"]
        await payer.post(f"{page}/authenticate", params={"outcome": "success"})

        async def succeeded() -> bool:
            shown = (await client.get(f"/payments/{made['paymentId']}")).json()
            return bool(shown["status"] == "STATUS_SUCCEEDED")

        await soon(succeeded)


async def test_a_merchants_endpoint_hears_of_a_payment(edge: Any) -> None:
    control = edge.mesh.endpoints["sandbox"]
    name = f"m{uuid.uuid4().hex[:8]}"
    url = control.replace("/control", f"/merchant/{name}")
    async with edge.session() as client, httpx.AsyncClient() as outside:
        answer = await client.post(
            "/webhook_endpoints",
            json={"url": url, "eventTypes": ["smartpay.payment.*"]},
            headers=key(),
        )
        assert answer.status_code == 201, answer.text
        endpoint = answer.json()
        told = {"secrets": [endpoint["secret"]]}
        await outside.put(f"{control}/merchant/{name}/secrets", json=told)
        made = (await client.post("/pay", json=edge.order(), headers=key())).json()

        async def heard() -> Any:
            dump = (await outside.get(f"{control}/merchant/dump")).json()
            known = dump["payments"].get(name, {}).get(made["paymentId"], {})
            return dump if known.get("status") == "STATUS_SUCCEEDED" else None

        dump = await soon(heard)
        assert all(delivery["genuine"] for delivery in dump["deliveries"][name])
        listed = await client.get(f"/webhook_endpoints/{endpoint['webhookEndpointId']}/deliveries")
        assert listed.json()["webhookDeliveries"]
        deleted = await client.post(
            f"/webhook_endpoints/{endpoint['webhookEndpointId']}:delete", json={}
        )
        assert deleted.status_code == 200


async def test_what_is_not_signed_is_refused_and_asks_for_no_token(edge: Any) -> None:
    async with edge.session(token="") as client:
        for path in (f"/webhooks/stripe/{edge.accounts[0]}", f"/webhooks/stripe/pac_d1{'z' * 24}"):
            answer = await client.post(path, content=b"{}")
            assert (answer.status_code, answer.json()["reason"]) == (403, "SIGNATURE_REFUSED")
