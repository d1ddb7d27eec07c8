from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from smartpay_sandbox.amazon_pay_account import CARDS, REFUND_SECONDS, REFUNDS_MAX, SETTLING_SECONDS
from smartpay_sandbox.amazon_pay_api import AmazonPaySimulator
from smartpay_sandbox.amazon_pay_testing import (
    AmazonPaySandbox,
    amazon_pay_sandbox,
    registration,
    signed,
)
from smartpay_sandbox.testing import Clock

SESSIONS, CHARGES, REFUNDS = "/v2/checkoutSessions", "/v2/charges", "/v2/refunds"


def usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currencyCode": "USD"}


def session_of(intent: str = "AuthorizeWithCapture", **payment: Any) -> dict[str, Any]:
    return {
        "webCheckoutDetails": {
            "checkoutMode": "ProcessOrder",
            "checkoutResultReturnUrl": "https://shop.test/return?order=1",
            "checkoutCancelUrl": "https://shop.test/cart",
        },
        "storeId": "amzn1.application-oa2-client.first",
        "paymentDetails": {"paymentIntent": intent, "chargeAmount": usd("19.99"), **payment},
        "merchantMetadata": {"merchantReferenceId": "order-1"},
    }


class Shop:
    """A merchant's backend, as far as these tests need one."""

    def __init__(self, sandbox: AmazonPaySandbox) -> None:
        self.sandbox = sandbox
        self.call = sandbox.call

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        status, answer = await self.call(method, path, body, **more)
        assert status in (200, 201, 202), answer
        return answer

    async def reason(
        self, method: str, path: str, body: Any = None, **more: Any
    ) -> tuple[int, str]:
        status, answer = await self.call(method, path, body, **more)
        return status, answer["reasonCode"]

    async def agreed(self, card: str = "1111", **changes: Any) -> str:
        session = await self.ok("POST", SESSIONS, session_of(**changes))
        url = session["webCheckoutDetails"]["amazonPayRedirectUrl"]
        assert await self.sandbox.buyer(url, f"agree?card={card}") == 200
        return str(session["checkoutSessionId"])

    async def completed(self, card: str = "1111", **changes: Any) -> dict[str, Any]:
        path = f"{SESSIONS}/{await self.agreed(card, **changes)}/complete"
        return await self.ok("POST", path, {"chargeAmount": usd("19.99")})

    async def charge(self, card: str = "1111", **changes: Any) -> dict[str, Any]:
        session = await self.completed(card, **changes)
        return await self.ok("GET", f"{CHARGES}/{session['chargeId']}")

    def permission(self, card: str = "1111") -> str:
        return str(self.sandbox.simulator.grant("AFIRST", card)["chargePermissionId"])

    def order(self, permission: str, **changes: Any) -> dict[str, Any]:
        return {"chargePermissionId": permission, "chargeAmount": usd("5.00"), **changes}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with amazon_pay_sandbox(tmp_path) as running:
        yield Shop(running)


def state(item: dict[str, Any]) -> tuple[str, str | None]:
    details = item["statusDetails"]
    return details["state"], details["reasonCode"]


# ---- sessions --------------------------------------------------------------------------------


async def test_a_session_says_what_is_missing_before_a_buyer_can_check_out(shop: Shop) -> None:
    body = session_of()
    del body["paymentDetails"]
    session = await shop.ok("POST", SESSIONS, body)
    assert session["webCheckoutDetails"]["amazonPayRedirectUrl"] is None
    assert [c["constraintId"] for c in session["constraints"]] == [
        "PaymentIntentNotSet",
        "ChargeAmountNotSet",
    ]
    path = f"{SESSIONS}/{session['checkoutSessionId']}"
    details = session_of()["paymentDetails"]
    session = await shop.ok("PATCH", path, {"paymentDetails": details})
    assert session["constraints"] == []
    assert session["webCheckoutDetails"]["amazonPayRedirectUrl"].endswith(path.rpartition("/")[2])
    assert not [name for name in session if name.startswith("_")]


async def test_only_a_completion_after_the_buyers_consent_moves_money_and_only_once(
    shop: Shop,
) -> None:
    session = await shop.ok("POST", SESSIONS, session_of())
    path = f"{SESSIONS}/{session['checkoutSessionId']}"
    body = {"chargeAmount": usd("19.99")}
    early = await shop.reason("POST", f"{path}/complete", body)
    assert early == (422, "InvalidCheckoutSessionStatus")
    await shop.sandbox.buyer(session["webCheckoutDetails"]["amazonPayRedirectUrl"])
    assert state(await shop.ok("GET", path)) == ("Open", None)
    assert shop.sandbox.merchant()["charges"] == {}
    completed = await shop.ok("POST", f"{path}/complete", body)
    assert state(completed) == ("Completed", None)
    assert completed["chargeId"].startswith(completed["chargePermissionId"] + "-C")
    again = await shop.reason("POST", f"{path}/complete", body)
    assert again == (422, "InvalidCheckoutSessionStatus")
    assert len(shop.sandbox.merchant()["charges"]) == 1


@pytest.mark.parametrize(
    ("amount", "refused"),
    [
        (usd("19.98"), (409, "AmountMismatch")),
        ({"amount": "19.99", "currencyCode": "EUR"}, (400, "CurrencyMismatch")),
        (usd("19.999"), (400, "InvalidParameterValue")),
        (usd("0.00"), (400, "InvalidParameterValue")),
        (None, (400, "MissingParameterValue")),
    ],
)
async def test_a_completion_must_name_what_the_buyer_agreed_to(
    shop: Shop, amount: Any, refused: tuple[int, str]
) -> None:
    path = f"{SESSIONS}/{await shop.agreed()}/complete"
    body = {} if amount is None else {"chargeAmount": amount}
    assert await shop.reason("POST", path, body) == refused
    assert shop.sandbox.merchant()["charges"] == {}


async def test_a_session_can_be_changed_until_its_buyer_agrees(shop: Shop) -> None:
    path = f"{SESSIONS}/{await shop.agreed()}"
    details = {"paymentDetails": {"chargeAmount": usd("1.00")}}
    assert await shop.reason("PATCH", path, details) == (422, "InvalidCheckoutSessionStatus")


@pytest.mark.parametrize(
    ("intent", "state_of_charge"),
    [("Authorize", "Authorized"), ("AuthorizeWithCapture", "Captured"), ("Confirm", None)],
)
async def test_the_intent_decides_how_far_a_completion_goes(
    shop: Shop, intent: str, state_of_charge: str | None
) -> None:
    session = await shop.completed(intent=intent)
    charge = session["chargeId"] and await shop.ok("GET", f"{CHARGES}/{session['chargeId']}")
    assert (charge and charge["statusDetails"]["state"]) == state_of_charge
    permission = await shop.ok("GET", f"/v2/chargePermissions/{session['chargePermissionId']}")
    balance = {"Authorize": "0.00", "AuthorizeWithCapture": "0.00", "Confirm": "19.99"}[intent]
    assert permission["limits"]["amountBalance"] == usd(balance)


@pytest.mark.parametrize(
    ("code", "card", "reason"),
    [
        ("BuyerCanceled", "1111", "BuyerCanceled"),
        ("AmazonCanceled", "1111", "AmazonCanceled"),
        ("Declined", "1111", "Declined"),
        ("", "3064", "BuyerCanceled"),
        ("", "3434", "Declined"),
    ],
)
async def test_a_completion_that_fails_cancels_the_session(
    shop: Shop, code: str, card: str, reason: str
) -> None:
    path = f"{SESSIONS}/{await shop.agreed(card)}"
    for _ in range(2):
        refused = await shop.reason(
            "POST", f"{path}/complete", {"chargeAmount": usd("19.99")}, code=code
        )
        assert refused == (422, "CheckoutSessionCanceled")
    assert state(await shop.ok("GET", path)) == ("Canceled", reason)


async def test_sessions_expire_after_a_day_and_are_forgotten_after_thirty(shop: Shop) -> None:
    path = f"{SESSIONS}/{await shop.agreed()}"
    shop.sandbox.clock.advance(24 * 3600)
    assert state(await shop.ok("GET", path)) == ("Canceled", "Expired")
    shop.sandbox.clock.advance(29 * 24 * 3600)
    assert await shop.reason("GET", path) == (404, "ResourceNotFound")


async def test_the_page_sends_the_buyer_back_to_the_shop(shop: Shop) -> None:
    session = await shop.ok("POST", SESSIONS, session_of())
    url, session_id = (
        session["webCheckoutDetails"]["amazonPayRedirectUrl"],
        session["checkoutSessionId"],
    )
    async with aiohttp.ClientSession() as browser:
        async with browser.get(url) as page:
            assert "19.99 USD" in await page.text()
        async with browser.get(f"{url}/agree?card=1111", allow_redirects=False) as page:
            back = page.headers["location"]
            assert back == (
                f"https://shop.test/return?order=1&amazonCheckoutSessionId={session_id}"
            )
        async with browser.get(f"{url}/cancel", allow_redirects=False) as page:
            assert page.headers["location"].startswith("https://shop.test/cart?")
        async with browser.post(f"{url}/agree") as page:
            assert page.status == 422
        async with browser.post(f"{url}/elsewhere") as page:
            assert page.status == 404
        async with browser.post(f"{url}0/agree") as page:
            assert page.status == 404


async def test_slow_cards_need_a_merchant_who_can_wait(shop: Shop) -> None:
    session = await shop.ok("POST", SESSIONS, session_of())
    url = session["webCheckoutDetails"]["amazonPayRedirectUrl"]
    assert await shop.sandbox.buyer(url, "agree?card=0701") == 400
    assert await shop.sandbox.buyer(url, "agree?card=9999") == 400
    body = session_of(canHandlePendingAuthorization=True)
    assert await shop.reason("POST", SESSIONS, body) == (400, "InvalidParameterCombination")


# ---- charges ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "ended"),
    [("0701", ("Authorized", None)), ("4354", ("Declined", "HardDeclined"))],
)
async def test_an_asynchronous_authorization_ends_by_itself(
    shop: Shop, card: str, ended: tuple[str, str | None]
) -> None:
    charge = await shop.charge(card, intent="Authorize", canHandlePendingAuthorization=True)
    assert state(charge) == ("AuthorizationInitiated", None)
    path = f"{CHARGES}/{charge['chargeId']}"
    shop.sandbox.clock.advance(SETTLING_SECONDS - 1)
    assert state(await shop.ok("GET", path)) == ("AuthorizationInitiated", None)
    shop.sandbox.clock.advance(1)
    assert state(await shop.ok("GET", path)) == ended


async def test_an_authorization_is_captured_in_part_and_only_once(shop: Shop) -> None:
    charge = await shop.charge(intent="Authorize")
    path = f"{CHARGES}/{charge['chargeId']}/capture"
    over = await shop.reason("POST", path, {"captureAmount": usd("20.00")})
    assert over == (400, "TransactionAmountExceeded")
    captured = await shop.ok("POST", path, {"captureAmount": usd("15.00")})
    assert (state(captured), captured["captureAmount"]) == (("Captured", None), usd("15.00"))
    again = await shop.reason("POST", path, {"captureAmount": usd("4.99")})
    assert again == (422, "InvalidChargeStatus")


async def test_a_capture_after_a_week_takes_its_time(shop: Shop) -> None:
    charge = await shop.charge(intent="Authorize")
    shop.sandbox.clock.advance(8 * 24 * 3600)
    path = f"{CHARGES}/{charge['chargeId']}"
    status, waiting = await shop.call("POST", f"{path}/capture", {"captureAmount": usd("19.99")})
    assert (status, state(waiting)) == (202, ("CaptureInitiated", None))
    assert waiting["captureAmount"] is None
    cancel = await shop.reason("DELETE", f"{path}/cancel", {"cancellationReason": "late"})
    assert cancel == (422, "InvalidChargeStatus")
    shop.sandbox.clock.advance(SETTLING_SECONDS)
    assert (await shop.ok("GET", path))["captureAmount"] == usd("19.99")


async def test_an_authorization_that_nobody_captured_is_released_after_thirty_days(
    shop: Shop,
) -> None:
    charge = await shop.charge(intent="Authorize")
    shop.sandbox.clock.advance(30 * 24 * 3600)
    found = await shop.ok("GET", f"{CHARGES}/{charge['chargeId']}")
    assert state(found) == ("Canceled", "ExpiredUnused")


async def test_closing_a_permission_cancels_its_open_charges_when_asked_to(shop: Shop) -> None:
    charge = await shop.charge(intent="Authorize")
    close = f"/v2/chargePermissions/{charge['chargePermissionId']}/close"
    path = f"{CHARGES}/{charge['chargeId']}"
    await shop.ok("DELETE", close, {"closureReason": "done"})
    assert state(await shop.ok("GET", path)) == ("Authorized", None)
    await shop.ok("DELETE", close, {"closureReason": "done", "cancelPendingCharges": True})
    assert state(await shop.ok("GET", path)) == ("Canceled", "ChargePermissionCanceled")
    again = await shop.reason("POST", CHARGES, shop.order(charge["chargePermissionId"]))
    assert again == (422, "InvalidChargePermissionStatus")


async def test_a_canceled_charge_gives_its_amount_back_to_the_permission(shop: Shop) -> None:
    session = await shop.completed(intent="Confirm")
    order = shop.order(session["chargePermissionId"], chargeAmount=usd("15.00"))
    charge = await shop.ok("POST", CHARGES, order)
    assert await shop.reason("POST", CHARGES, order) == (400, "TransactionAmountExceeded")
    cancel = f"{CHARGES}/{charge['chargeId']}/cancel"
    for _ in range(2):
        canceled = await shop.ok("DELETE", cancel, {"cancellationReason": "changed my mind"})
        assert state(canceled) == ("Canceled", "MerchantCanceled")
    await shop.ok("POST", CHARGES, order)


@pytest.mark.parametrize(
    ("code", "card", "refused"),
    [
        ("SoftDeclined", "1111", (422, "SoftDeclined")),
        ("HardDeclined", "1111", (422, "HardDeclined")),
        ("AmazonRejected", "1111", (422, "AmazonRejected")),
        ("TransactionTimedOut", "1111", (422, "TransactionTimedOut")),
        ("ProcessingFailure", "1111", (500, "ProcessingFailure")),
        ("BuyerCanceled", "1111", (400, "InvalidSandboxSimulationSpecified")),
        ("", "3434", (422, "HardDeclined")),
    ],
)
async def test_a_declined_charge_leaves_nothing(
    shop: Shop, code: str, card: str, refused: tuple[int, str]
) -> None:
    permission = shop.permission(card)
    order = shop.order(permission, captureNow=True)
    assert await shop.reason("POST", CHARGES, order, code=code) == refused
    assert shop.sandbox.merchant()["charges"] == {}
    found = await shop.ok("GET", f"/v2/chargePermissions/{permission}")
    closed = code == "AmazonRejected"
    assert found["statusDetails"]["state"] == ("Closed" if closed else "Chargeable")


async def test_a_permission_ends_by_itself(shop: Shop) -> None:
    permission = shop.permission()
    shop.sandbox.clock.advance(400 * 24 * 3600)
    refused = await shop.reason("POST", CHARGES, shop.order(permission))
    assert refused == (422, "InvalidChargePermissionStatus")


async def test_a_soft_descriptor_goes_with_an_immediate_capture(shop: Shop) -> None:
    permission = shop.permission()
    order = shop.order(permission, softDescriptor="SHOP")
    assert await shop.reason("POST", CHARGES, order) == (400, "InvalidParameterValue")
    await shop.ok("POST", CHARGES, order | {"captureNow": True})


# ---- refunds ---------------------------------------------------------------------------------


async def test_a_refund_is_begun_and_done_later(shop: Shop) -> None:
    charge = await shop.charge()
    body = {"chargeId": charge["chargeId"], "refundAmount": usd("5.00")}
    refund = await shop.ok("POST", REFUNDS, body)
    path = f"{REFUNDS}/{refund['refundId']}"
    assert state(await shop.ok("GET", path)) == ("RefundInitiated", None)
    shop.sandbox.clock.advance(REFUND_SECONDS)
    assert state(await shop.ok("GET", path)) == ("Refunded", None)
    found = await shop.ok("GET", f"{CHARGES}/{charge['chargeId']}")
    assert found["refundedAmount"] == usd("5.00")


async def test_a_declined_refund_frees_its_amount(shop: Shop) -> None:
    charge = await shop.charge()
    body = {"chargeId": charge["chargeId"], "refundAmount": usd("19.99")}
    refund = await shop.ok("POST", REFUNDS, body, code="RefundDeclined")
    over = await shop.reason("POST", REFUNDS, body)
    assert over == (400, "TransactionAmountExceeded"), "the first one may still succeed"
    shop.sandbox.clock.advance(REFUND_SECONDS)
    found = await shop.ok("GET", f"{REFUNDS}/{refund['refundId']}")
    assert state(found) == ("Declined", "AmazonRejected")
    await shop.ok("POST", REFUNDS, body)


async def test_only_captured_money_goes_back_and_in_ten_parts_at_most(shop: Shop) -> None:
    held = await shop.charge(intent="Authorize")
    body = {"chargeId": held["chargeId"], "refundAmount": usd("1.00")}
    assert await shop.reason("POST", REFUNDS, body) == (422, "InvalidChargeStatus")
    charge = await shop.charge()
    body = {"chargeId": charge["chargeId"], "refundAmount": usd("1.00")}
    for _ in range(REFUNDS_MAX):
        await shop.ok("POST", REFUNDS, body)
    assert await shop.reason("POST", REFUNDS, body) == (422, "TransactionCountExceeded")


# ---- idempotency -----------------------------------------------------------------------------


async def test_the_first_answer_under_a_key_is_kept_for_ever(shop: Shop) -> None:
    order = shop.order(shop.permission(), captureNow=True)
    first = await shop.call("POST", CHARGES, order, key="k")
    shop.sandbox.clock.advance(100 * 24 * 3600)
    assert await shop.call("POST", CHARGES, order, key="k") == first
    merchant = shop.sandbox.merchant()
    assert len(merchant["charges"]) == 1
    assert merchant["idempotency_keys"]["k"] == {"seen": 2, "replayed": 1, "status": 201}


async def test_a_decline_is_kept_too_even_where_a_new_try_would_succeed(shop: Shop) -> None:
    order = shop.order(shop.permission())
    for code in ("SoftDeclined", ""):
        refused = await shop.reason("POST", CHARGES, order, key="k", code=code)
        assert refused == (422, "SoftDeclined")


async def test_a_used_key_refuses_another_request(shop: Shop) -> None:
    order = shop.order(shop.permission())
    await shop.ok("POST", CHARGES, order, key="k")
    for path, body in ((CHARGES, order | {"captureNow": True}), (SESSIONS, session_of())):
        refused = await shop.reason("POST", path, body, key="k")
        assert refused == (400, "DuplicateIdempotencyKey")


async def test_keys_of_two_merchants_do_not_meet(shop: Shop) -> None:
    await shop.ok("POST", SESSIONS, session_of(), key="k")
    body = session_of() | {"storeId": "amzn1.application-oa2-client.second"}
    await shop.ok("POST", SESSIONS, body, key="k", name="second")
    assert [len(shop.sandbox.merchant(m)["checkoutSessions"]) for m in ("AFIRST", "ASECOND")] == [
        1,
        1,
    ]


@pytest.mark.parametrize("key", ["k" * 33, "a b", "a/b"])
async def test_a_key_has_at_most_32_plain_characters(shop: Shop, key: str) -> None:
    assert await shop.reason("POST", SESSIONS, session_of(), key=key) == (400, "InvalidHeaderValue")


async def test_a_key_under_way_is_not_executed_twice(shop: Shop) -> None:
    order = shop.order(shop.permission())
    rule = {"kind": "slow", "delay_ms": 1000, "path_prefix": CHARGES, "times": 1}
    shop.sandbox.simulator.set_faults([rule])
    first = asyncio.create_task(shop.call("POST", CHARGES, order, key="k"))
    while not shop.sandbox.simulator.dump()["faults"][0]["fired"]:
        await asyncio.sleep(0)
    assert (await shop.call("POST", CHARGES, order, key="k"))[0] == 409
    shop.sandbox.clock.advance(1)
    assert (await first)[0] == 201
    assert len(shop.sandbox.merchant()["charges"]) == 1


async def test_a_key_counts_for_post_alone(shop: Shop) -> None:
    charge = await shop.charge(intent="Authorize")
    path = f"{CHARGES}/{charge['chargeId']}"
    assert (await shop.ok("GET", path, key="k"))["statusDetails"]["state"] == "Authorized"
    await shop.ok("DELETE", f"{path}/cancel", {"cancellationReason": "x"}, key="k")
    assert (await shop.ok("GET", path, key="k"))["statusDetails"]["state"] == "Canceled"


# ---- faults, and what a restart keeps --------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "charges", "kept"),
    [
        ("error_before", 500, 0, None),
        ("rate_limit", 429, 0, None),
        ("error_after", 500, 1, 500),
        ("drop_after_commit", None, 1, 201),
    ],
)
async def test_faults_break_as_they_say(
    shop: Shop, kind: str, status: int | None, charges: int, kept: int | None
) -> None:
    order = shop.order(shop.permission())
    shop.sandbox.simulator.set_faults([{"kind": kind, "account": "AFIRST", "times": 1}])
    if status is None:
        with pytest.raises(aiohttp.ClientError):
            await shop.call("POST", CHARGES, order, key="k")
    else:
        assert (await shop.call("POST", CHARGES, order, key="k"))[0] == status
    merchant = shop.sandbox.merchant()
    assert len(merchant["charges"]) == charges
    found = merchant["idempotency_keys"].get("k", {"status": None})
    assert found["status"] == kept
    replayed = (await shop.call("POST", CHARGES, order, key="k"))[0]
    assert replayed == (500 if kind == "error_after" else 201)


async def test_a_restart_forgets_nothing_it_answered_and_goes_on_with_what_was_moving(
    tmp_path: Path,
) -> None:
    async with amazon_pay_sandbox(tmp_path) as running:
        shop = Shop(running)
        charge = await shop.charge("0701", intent="Authorize", canHandlePendingAuthorization=True)
        order = shop.order(shop.permission())
        kept = await shop.ok("POST", CHARGES, order, key="k")
        before = running.merchant()
    async with amazon_pay_sandbox(tmp_path) as running:
        shop = Shop(running)
        after = running.merchant()
        assert {k: v for k, v in after.items() if k != "idempotency_keys"} == {
            k: v for k, v in before.items() if k != "idempotency_keys"
        }
        assert await shop.ok("POST", CHARGES, order, key="k") == kept
        running.clock.advance(SETTLING_SECONDS)
        found = await shop.ok("GET", f"{CHARGES}/{charge['chargeId']}")
        assert state(found) == ("Authorized", None)


async def test_a_reset_forgets_everything_but_the_merchants(shop: Shop) -> None:
    await shop.charge()
    async with (
        aiohttp.ClientSession() as browser,
        browser.post(f"{shop.sandbox.url}/control/reset") as answer,
    ):
        assert answer.status == 204
    assert shop.sandbox.merchant()["charges"] == {}
    await shop.charge()


# ---- who may ask what ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"authorization": ""}, (401, "UnauthorizedAccess")),
        ({"authorization": "Bearer x"}, (403, "InvalidRequestSignature")),
        ({"x-amz-pay-date": ""}, (400, "MissingHeader")),
        ({"x-amz-pay-region": "na "}, (200, "")),
        ({"x-amz-pay-region": "eu"}, (403, "InvalidRequestSignature")),
        ({"x-amz-pay-region": "moon"}, (400, "InvalidHeaderValue")),
        ({"x-amz-pay-date": "20270115T080001Z"}, (403, "InvalidRequestSignature")),
        ({"x-amz-pay-date": "yesterday"}, (400, "InvalidHeaderValue")),
    ],
)
async def test_a_request_that_is_not_signed_as_it_should_be_is_refused(
    shop: Shop, headers: dict[str, str], refused: tuple[int, str]
) -> None:
    session = await shop.ok("POST", SESSIONS, session_of())
    path = f"{SESSIONS}/{session['checkoutSessionId']}"
    status, answer = await shop.call("GET", path, None, **headers)
    assert (status, answer.get("reasonCode", "")) == refused


async def test_an_old_signature_is_no_signature(shop: Shop) -> None:
    path = f"{SESSIONS}/1"
    old = signed("first", "GET", path, b"", shop.sandbox.clock())
    shop.sandbox.clock.advance(301)
    assert await shop.reason("GET", path, **old) == (403, "InvalidRequestSignature")


async def test_merchants_see_their_own_objects_alone(shop: Shop) -> None:
    charge = await shop.charge()
    found = await shop.reason("GET", f"{CHARGES}/{charge['chargeId']}", name="second")
    assert found == (404, "ResourceNotFound")
    order = shop.order(charge["chargePermissionId"])
    assert await shop.reason("POST", CHARGES, order, name="second") == (404, "ResourceNotFound")


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"surprise": 1}, "UnrecognizedField"),
        ({"paymentDetails": {"allowOvercharge": True}}, "UnrecognizedField"),
        ({"paymentDetails": {"paymentIntent": "Steal"}}, "InvalidParameterValue"),
        ({"paymentDetails": {"chargeAmount": {"amount": "1"}}}, "MissingParameterValue"),
        ({"paymentDetails": {"chargeAmount": {"amount": 1, "currencyCode": "USD"}}}, None),
        ({"paymentDetails": {"softDescriptor": "x" * 17}}, "InvalidParameterValue"),
        ({"storeId": "another"}, "InvalidParameterValue"),
        ({"chargePermissionType": "Recurring"}, "InvalidParameterValue"),
        ({"webCheckoutDetails": "url"}, "InvalidParameterValue"),
    ],
)
async def test_a_body_amazon_would_not_take_is_refused_by_field(
    shop: Shop, body: dict[str, Any], refused: str | None
) -> None:
    found = await shop.reason("POST", SESSIONS, session_of() | body)
    assert found == (400, refused or "InvalidParameterValue")


async def test_what_is_no_operation_is_refused(shop: Shop) -> None:
    for method, path in (("GET", "/v2/charges"), ("POST", "/v3/charges"), ("PUT", "/v2/charges/1")):
        assert await shop.reason(method, path) == (405, "UnsupportedOperation")


async def test_currencies_have_their_own_decimals(shop: Shop) -> None:
    yen = {"amount": "1999", "currencyCode": "JPY"}
    order = shop.order(shop.permission(), chargeAmount=yen, captureNow=True)
    charge = await shop.ok("POST", CHARGES, order)
    assert charge["captureAmount"] == yen
    order["chargeAmount"] = {"amount": "19.99", "currencyCode": "JPY"}
    assert await shop.reason("POST", CHARGES, order) == (400, "InvalidParameterValue")
    order["chargeAmount"] = {"amount": "1", "currencyCode": "KWD"}
    assert await shop.reason("POST", CHARGES, order) == (400, "InvalidParameterValue")


# ---- the control API -------------------------------------------------------------------------


async def test_the_control_api_registers_merchants_and_grants_permissions(shop: Shop) -> None:
    control = f"{shop.sandbox.url}/control/amazon_pay"
    new = vars(registration("third"))
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{control}/merchants", json=new) as answer:
            assert answer.status == 201
        stolen = {**vars(registration("first")), "merchant_id": "AOTHER"}
        for bad in ({}, {**new, "x": "y"}, stolen, {**new, "public_key": "no key"}):
            async with client.post(f"{control}/merchants", json=bad) as answer:
                assert answer.status == 400
        asked = {"merchant_id": "ATHIRD", "card": CARDS[0]}
        async with client.post(f"{control}/permissions", json=asked) as answer:
            assert answer.status == 201
            permission = (await answer.json())["chargePermissionId"]
        for bad, status in (({}, 400), ({"merchant_id": "ANOBODY"}, 404)):
            async with client.post(f"{control}/permissions", json=bad) as answer:
                assert answer.status == status
    await shop.ok("POST", CHARGES, shop.order(permission), name="third")


async def test_a_live_key_has_no_place_in_a_sandbox(tmp_path: Path) -> None:
    simulator = AmazonPaySimulator(tmp_path, clock=Clock())
    await simulator.start()
    given = vars(registration("first")) | {"public_key_id": "LIVE-FIRST"}
    with pytest.raises(ValueError, match="live mode"):
        simulator.register(type(registration("first"))(**given))
    await simulator.stop()
