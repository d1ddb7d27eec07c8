"""Amazon's own SDK for Node signs, we verify; and it takes a payment through our simulator."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from smartpay_payments.adapters.amazon_pay_signing import canonical_request
from smartpay_sandbox.amazon_pay_api import AmazonPaySimulator
from smartpay_sandbox.amazon_pay_refusals import AmazonPayRefusalError
from smartpay_sandbox.amazon_pay_signature import load_public_key, read_claim, verify
from smartpay_sandbox.amazon_pay_testing import key_pair, registration
from smartpay_sandbox.control import sandbox_app
from smartpay_sandbox.listener import listening

Oracle = Callable[[str, dict[str, Any]], Awaitable[Any]]

SCRIPT = "amazon_pay.js"
REQUESTS: list[dict[str, Any]] = [
    {
        "method": "POST",
        "urlFragment": "charges",
        "payload": '{"chargePermissionId":"S01-0000000-0000000","note":"Zwölf Stühle"}',
        "headers": {"x-amz-pay-idempotency-key": "pay_d1aaaaaaaaaaaaaaaaaaaaaaaa-0"},
    },
    {"method": "PATCH", "urlFragment": "checkoutSessions/1", "payload": "{}"},
    {
        "method": "DELETE",
        "urlFragment": "charges/1/cancel",
        "payload": '{"cancellationReason":"x"}',
    },
    {"method": "GET", "urlFragment": "refunds/1", "payload": ""},
    {
        "method": "GET",
        "urlFragment": "reports",
        "payload": "",
        "queryParams": {"reportTypes": "a,b c", "pageSize": "10"},
    },
]


def config(public_key_id: str = "SANDBOX-FIRST", **more: Any) -> dict[str, Any]:
    return {
        "publicKeyId": public_key_id,
        "privateKey": key_pair("first")[0],
        "region": "us",
        "sandbox": True,
        "algorithm": "AMZN-PAY-RSASSA-PSS-V2",
        **more,
    }


def check(
    request: dict[str, Any], signed: dict[str, str], prefix: str = "/v2", body: str | None = None
) -> None:
    """Verifies as the simulator does; raises what it would answer."""
    headers = {name.lower(): value for name, value in signed.items()}
    verify(
        read_claim(headers["authorization"]),
        load_public_key(key_pair("first")[1]),
        request["method"],
        f"{prefix}/{request['urlFragment']}",
        "&".join(f"{n}={v}" for n, v in reversed(request.get("queryParams", {}).items())),
        headers,
        (request["payload"] if body is None else body).encode(),
        time.time(),
    )


@pytest.mark.parametrize("algorithm", ["AMZN-PAY-RSASSA-PSS-V2", None], ids=["V2", "V1"])
async def test_the_simulator_believes_what_the_sdk_signs(
    oracle: Oracle, algorithm: str | None
) -> None:
    asked = {"do": "sign", "config": config(algorithm=algorithm), "requests": REQUESTS}
    answers = await oracle(SCRIPT, asked)
    for request, answer in zip(REQUESTS, answers, strict=True):
        check(request, answer["headers"])


async def test_a_key_without_its_environment_signs_the_longer_path(oracle: Oracle) -> None:
    asked = {"do": "sign", "config": config("AFVX7ULWSGBZ5535PCUQOY7B"), "requests": REQUESTS}
    for request, answer in zip(REQUESTS, await oracle(SCRIPT, asked), strict=True):
        check(request, answer["headers"], prefix="/sandbox/v2")


async def test_the_simulator_notices_every_change_of_what_the_sdk_signed(oracle: Oracle) -> None:
    request = REQUESTS[0]
    asked = {"do": "sign", "config": config(), "requests": [request]}
    ((answer),) = await oracle(SCRIPT, asked)
    signed = answer["headers"]
    changes: list[dict[str, Any]] = [
        {"body": request["payload"] + " "},
        {"request": {**request, "method": "PUT"}},
        {"request": {**request, "urlFragment": "refunds"}},
        {"request": {**request, "queryParams": {"a": "b"}}},
        {"prefix": "/sandbox/v2"},
        {"signed": {**signed, "x-amz-pay-idempotency-key": "another"}},
        {"signed": {**signed, "x-amz-pay-region": "eu"}},
    ]
    for change in changes:
        with pytest.raises(AmazonPayRefusalError) as refused:
            check(**{"request": request, "signed": signed, **change})
        assert refused.value.reason_code == "InvalidRequestSignature", change


async def test_our_canonical_request_is_the_sdk_s(oracle: Oracle) -> None:
    requests = [r for r in REQUESTS if "queryParams" not in r]  # we send none
    asked = {"do": "sign", "config": config(), "requests": requests}
    for request, answer in zip(requests, await oracle(SCRIPT, asked), strict=True):
        headers = {n: v for n, v in answer["headers"].items() if n != "authorization"}
        path, body = f"/v2/{request['urlFragment']}", request["payload"].encode()
        ours = canonical_request(request["method"], path, headers, body)
        assert ours == answer["canonical"]


async def test_the_sdk_takes_a_payment_through_the_simulator(
    oracle: Oracle, tmp_path: Path
) -> None:
    merchant = registration("first")
    simulator = AmazonPaySimulator(tmp_path, [merchant])
    async with listening(sandbox_app({"amazon_pay": simulator})) as url:
        seen = await oracle(
            SCRIPT,
            {
                "do": "drive",
                "config": config(),
                "url": f"{url}/amazon_pay",
                "storeId": merchant.store_id,
            },
        )
    assert seen == {
        "created": 201,
        "completed": [200, "Completed"],
        "reread": "Completed",
        "charge": "Authorized",
        "captured": {"amount": "15.00", "currencyCode": "USD"},
        "refund": [201, "RefundInitiated"],
        "refundRead": {"amount": "5.00", "currencyCode": "USD"},
        "balance": {"amount": "4.99", "currencyCode": "USD"},
        "closed": "Closed",
        "refused": [422, "InvalidChargeStatus"],
    }
