"""The demo merchant's own endpoint is as careful as a merchant should be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from smartpay_sandbox.control import sandbox_app
from smartpay_sandbox.listener import listening
from smartpay_sandbox.merchant_endpoint import MerchantEndpoints

NOW = 1_800_000_000
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


@pytest.fixture
async def merchant() -> AsyncIterator[tuple[MerchantEndpoints, httpx.AsyncClient]]:
    endpoints = MerchantEndpoints(lambda: NOW)
    async with (
        listening(sandbox_app({"merchant": endpoints})) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        yield endpoints, client


def an_event(sequence: int = 1, status: str = "STATUS_SUCCEEDED") -> bytes:
    event = {
        "subject": "pay_1",
        "sequence": str(sequence),
        "type": "smartpay.payment.succeeded.v1",
        "data": {"status": status},
    }
    return json.dumps(event).encode()


def signed(body: bytes, name: str = "whd_1", stamp: int = NOW) -> dict[str, str]:
    mac = hmac.new(b"s" * 32, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": str(stamp),
        "webhook-signature": f"v1,{base64.b64encode(b'other').decode()} "
        f"v1,{base64.b64encode(mac).decode()}",
    }


async def test_what_is_genuine_is_taken_once_and_the_newest_counts(merchant: Any) -> None:
    _, client = merchant
    told = await client.put("/control/merchant/demo/secrets", json={"secrets": [SECRET]})
    assert told.status_code == 204
    for name, sequence in (("whd_2", 2), ("whd_1", 1), ("whd_2", 2)):
        body = an_event(sequence, f"S{sequence}")
        answer = await client.post("/merchant/demo", content=body, headers=signed(body, name))
        assert answer.status_code == 204
    dump = (await client.get("/control/merchant/dump")).json()
    assert [d["fate"] for d in dump["deliveries"]["demo"]] == ["taken", "taken", "repeated"]
    assert all(d["genuine"] for d in dump["deliveries"]["demo"])
    assert dump["payments"]["demo"]["pay_1"]["status"] == "S2"


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-id": "whd_9"},
        {"webhook-timestamp": str(NOW - 301)},
        {"webhook-timestamp": str(NOW + 301)},
        {"webhook-timestamp": "soon"},
        {"webhook-signature": ""},
    ],
)
async def test_what_is_not_genuine_is_refused(merchant: Any, change: dict[str, str]) -> None:
    endpoints, client = merchant
    endpoints.tell_secrets("demo", [SECRET])
    body = an_event()
    answer = await client.post("/merchant/demo", content=body, headers=signed(body) | change)
    assert answer.status_code == 400
    assert endpoints.dump()["payments"] == {}


async def test_it_misbehaves_on_demand(merchant: Any) -> None:
    endpoints, client = merchant
    rules = [
        {"kind": "error_before", "times": 1, "account": "demo"},
        {"kind": "error_after", "times": 1, "account": "demo"},
    ]
    await client.put("/control/merchant/faults", json={"rules": rules})
    body = an_event()
    codes = [
        (await client.post("/merchant/demo", content=body, headers=signed(body))).status_code
        for _ in range(3)
    ]
    assert codes == [500, 500, 204]
    fates = [d["fate"] for d in endpoints.dump()["deliveries"]["demo"]]
    assert fates == ["taken", "repeated"]
