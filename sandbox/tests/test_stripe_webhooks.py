"""Stripe's simulator tells of what changed, signed as Stripe signs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from smartpay_sandbox.listener import listening
from smartpay_sandbox.stripe_schema import check_response
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

SECRET = "whsec_test"


@dataclass
class Merchant:
    """Takes events and verifies them by the unmodified SDK."""

    clock: Callable[[], float]
    url: str = ""
    events: list[Any] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        body = await request.body()
        header = request.headers["stripe-signature"]
        self.headers.append(header)
        # The simulator's clock stands still, the SDK reads the real one.
        stripe.WebhookSignature.verify_header(body.decode(), header, SECRET, tolerance=None)
        assert f"t={int(self.clock())}," in header
        event = json.loads(body)
        assert not check_response(stripe.Event, event)
        self.events.append(event)
        return Response(status_code=self.statuses.pop(0) if self.statuses else 200)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]


@pytest.fixture
async def merchant(sandbox: StripeSandbox) -> AsyncIterator[Merchant]:
    merchant = Merchant(sandbox.clock)
    app = Starlette(routes=[Route("/hook", merchant.take, methods=["POST"])])
    async with listening(app) as url:
        merchant.url = f"{url}/hook"
        sandbox.simulator.register_webhook("acct_first", merchant.url, SECRET)
        yield merchant


async def paid(sandbox: StripeSandbox, charge: Callable[..., Any], **changes: Any) -> Any:
    intent = await sandbox.client().v1.payment_intents.create_async(charge(**changes))
    await sandbox.simulator.events.delivered()
    return intent


async def test_a_charge_is_told_of(
    sandbox: StripeSandbox, merchant: Merchant, charge: Callable[..., Any]
) -> None:
    intent = await paid(sandbox, charge, metadata={"payment_id": "pay_1"})
    assert Counter(merchant.types) == Counter(
        ["payment_intent.created", "payment_intent.succeeded", "charge.succeeded"]
    )
    (succeeded,) = (e for e in merchant.events if e["type"] == "payment_intent.succeeded")
    assert succeeded["data"]["object"]["id"] == intent.id
    assert succeeded["data"]["object"]["metadata"] == {"payment_id": "pay_1"}
    assert succeeded["livemode"] is False


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("pm_card_chargeDeclined", {"payment_intent.payment_failed", "charge.failed"}),
        ("pm_card_createDispute", {"charge.dispute.created", "charge.dispute.funds_withdrawn"}),
    ],
)
async def test_what_goes_wrong_is_told_of_too(
    sandbox: StripeSandbox,
    merchant: Merchant,
    charge: Callable[..., Any],
    card: str,
    expected: set[str],
) -> None:
    try:
        await paid(sandbox, charge, payment_method=card)
    except stripe.CardError:
        await sandbox.simulator.events.delivered()
    assert expected <= set(merchant.types)
    for event in merchant.events:
        if event["type"].startswith("charge.dispute"):
            assert event["data"]["object"]["payment_intent"].startswith("pi_")


async def test_capture_cancel_and_refund_are_told_of(
    sandbox: StripeSandbox, merchant: Merchant, charge: Callable[..., Any]
) -> None:
    client = sandbox.client()
    held = await paid(sandbox, charge, capture_method="manual")
    assert "payment_intent.amount_capturable_updated" in merchant.types
    merchant.events.clear()
    await client.v1.payment_intents.capture_async(held.id)
    await sandbox.simulator.events.delivered()
    assert Counter(merchant.types) == Counter(["charge.captured", "payment_intent.succeeded"])
    merchant.events.clear()
    await client.v1.refunds.create_async({"payment_intent": held.id, "amount": 500})
    await sandbox.simulator.events.delivered()
    assert Counter(merchant.types) == Counter(["refund.created", "charge.refunded"])
    merchant.events.clear()
    other = await paid(sandbox, charge, capture_method="manual")
    merchant.events.clear()
    await client.v1.payment_intents.cancel_async(other.id)
    await sandbox.simulator.events.delivered()
    assert "payment_intent.canceled" in merchant.types


async def test_a_payer_who_authenticates_is_told_of(
    sandbox: StripeSandbox, merchant: Merchant, charge: Callable[..., Any]
) -> None:
    intent = await paid(
        sandbox,
        charge,
        payment_method="pm_card_authenticationRequired",
        automatic_payment_methods=None,
        allowed_payment_method_types=["card"],
        return_url="https://merchant.example/",
    )
    assert "payment_intent.requires_action" in merchant.types
    merchant.events.clear()
    async with httpx.AsyncClient() as payer:
        page = intent.next_action.redirect_to_url.url
        await payer.post(f"{page}/authenticate", params={"outcome": "success"})
    await sandbox.simulator.events.delivered()
    assert "payment_intent.succeeded" in merchant.types


async def test_another_account_is_told_nothing(
    sandbox: StripeSandbox, merchant: Merchant, charge: Callable[..., Any]
) -> None:
    await sandbox.client("sk_test_second").v1.payment_intents.create_async(charge())
    await sandbox.simulator.events.delivered()
    assert merchant.events == []


async def test_a_refused_request_changes_nothing_and_tells_nothing(
    sandbox: StripeSandbox, merchant: Merchant, charge: Callable[..., Any]
) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await sandbox.client().v1.payment_intents.create_async(charge(amount=0))
    await sandbox.simulator.events.delivered()
    assert merchant.events == []


async def wait_for(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


async def test_what_was_not_taken_comes_again_signed_anew(
    sandbox: StripeSandbox, merchant: Merchant, charge: Callable[..., Any]
) -> None:
    merchant.statuses = [500, 500, 500]
    await paid(sandbox, charge)
    assert len(merchant.events) == 3
    sandbox.clock.advance(1)
    await wait_for(lambda: len(merchant.events) == 6)
    assert len({event["id"] for event in merchant.events}) == 3
    assert len({header.partition(",")[0] for header in merchant.headers}) == 2


async def test_events_come_twice_late_and_out_of_order_on_demand(
    sandbox: StripeSandbox, merchant: Merchant, charge: Callable[..., Any]
) -> None:
    async with httpx.AsyncClient() as control:
        put = f"{sandbox.url}/control/stripe/event_faults"
        rule = {"kind": "duplicate", "type_prefix": "charge.", "times": 1}
        assert (await control.put(put, json={"rules": [rule]})).status_code == 200
        await paid(sandbox, charge)
        assert merchant.types.count("charge.succeeded") == 2
        merchant.events.clear()

        rule = {"kind": "out_of_order", "type_prefix": "payment_intent.created"}
        await control.put(put, json={"rules": [rule]})
        await paid(sandbox, charge)
        assert merchant.types[0] != "payment_intent.created"
        assert "payment_intent.created" in merchant.types
        merchant.events.clear()

        rule = {"kind": "late", "type_prefix": "payment_intent.succeeded", "delay_ms": 5000}
        await control.put(put, json={"rules": [rule]})
        await paid(sandbox, charge)
        assert "payment_intent.succeeded" not in merchant.types
        sandbox.clock.advance(5)
        await wait_for(lambda: "payment_intent.succeeded" in merchant.types)

        for wrong in ({"kind": "never"}, {"kind": "late"}, {"kind": "duplicate", "x": 1}):
            assert (await control.put(put, json={"rules": [wrong]})).status_code == 400


async def test_endpoints_are_registered_by_the_control_api(sandbox: StripeSandbox) -> None:
    async with httpx.AsyncClient() as control:
        post = f"{sandbox.url}/control/stripe/webhook_endpoints"
        made = await control.post(post, json={"account": "acct_first", "url": "http://x.test/"})
        assert made.json()["secret"].startswith("whsec_")
        for wrong in ({"account": "acct_none", "url": "http://x"}, {"account": "acct_first"}, 5):
            assert (await control.post(post, json=wrong)).status_code == 400
    assert "secret" not in json.dumps(sandbox.simulator.dump()["webhooks"])


async def test_a_restart_sends_what_was_still_to_be_sent(
    tmp_path: Path, charge: Callable[..., Any]
) -> None:
    async with stripe_sandbox(tmp_path) as first:
        merchant = Merchant(first.clock)
        # Nobody listens there yet.
        first.simulator.register_webhook("acct_first", "http://127.0.0.1:9/hook", SECRET)
        await paid(first, charge)
    app = Starlette(routes=[Route("/hook", merchant.take, methods=["POST"])])
    async with listening(app) as url, stripe_sandbox(tmp_path) as second:
        await second.simulator.events.delivered()
        second.simulator.register_webhook("acct_first", f"{url}/hook")
        second.clock.advance(1)
        merchant.clock = second.clock
        await wait_for(lambda: len(merchant.events) == 3)
