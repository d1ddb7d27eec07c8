from __future__ import annotations

from typing import Any

import httpx
import pytest
import stripe

from smartpay_sandbox.testing import StripeSandbox

BACK = "https://shop.example/back?order=1"


async def asked(sandbox: StripeSandbox, charge: Any, **changes: Any) -> stripe.PaymentIntent:
    params = charge(payment_method="pm_card_authenticationRequired", return_url=BACK, **changes)
    client = sandbox.client()
    intent: stripe.PaymentIntent = await client.v1.payment_intents.create_async(params)
    assert intent.status == "requires_action"
    return intent


def page_of(intent: stripe.PaymentIntent) -> str:
    assert intent.next_action is not None
    assert intent.next_action.type == "redirect_to_url"
    assert intent.next_action.redirect_to_url is not None
    assert intent.next_action.redirect_to_url.return_url == BACK
    return str(intent.next_action.redirect_to_url.url)


async def test_a_payer_who_authenticates_pays_and_is_sent_back(
    sandbox: StripeSandbox, charge: Any
) -> None:
    intent = await asked(sandbox, charge)
    async with httpx.AsyncClient() as browser:
        page = await browser.get(page_of(intent))
        assert "/authenticate?outcome=success" in page.text
        assert "/authenticate?outcome=fail" in page.text
        back = await browser.get(page_of(intent) + "/authenticate?outcome=success")

    assert back.status_code == 303
    assert back.headers["location"].startswith(f"{BACK}&payment_intent={intent.id}&")
    paid = await sandbox.client().v1.payment_intents.retrieve_async(
        intent.id, {"expand": ["latest_charge"]}
    )
    assert paid.status == "succeeded"
    assert isinstance(paid.latest_charge, stripe.Charge)
    details = paid.latest_charge.payment_method_details
    assert details is not None
    assert details.card is not None
    assert details.card.three_d_secure is not None
    assert details.card.three_d_secure.result == "authenticated"


async def test_a_payer_who_fails_pays_nothing_and_may_try_another_card(
    sandbox: StripeSandbox, charge: Any
) -> None:
    intent = await asked(sandbox, charge, capture_method="manual")
    async with httpx.AsyncClient() as demo:
        answer = await demo.post(page_of(intent) + "/authenticate?outcome=fail")
        assert answer.json() == {"id": intent.id, "status": "requires_payment_method"}
        again = await demo.post(page_of(intent) + "/authenticate?outcome=success")
        assert again.status_code == 400

    failed = await sandbox.client().v1.payment_intents.retrieve_async(intent.id)
    assert failed.last_payment_error is not None
    assert failed.last_payment_error.code == "payment_intent_authentication_failure"
    assert sandbox.account()["charges"] == {}
    retried = await sandbox.client().v1.payment_intents.confirm_async(
        intent.id, {"payment_method": "pm_card_visa"}
    )
    assert retried.status == "requires_capture"


async def test_a_card_may_be_declined_after_its_payer_authenticated(
    sandbox: StripeSandbox, charge: Any
) -> None:
    intent = await sandbox.client().v1.payment_intents.create_async(
        charge(payment_method="pm_card_threeDSecureRequiredChargeDeclined", return_url=BACK)
    )
    async with httpx.AsyncClient() as demo:
        await demo.post(page_of(intent) + "/authenticate?outcome=success")

    declined = await sandbox.client().v1.payment_intents.retrieve_async(intent.id)
    assert declined.status == "requires_payment_method"
    assert declined.last_payment_error is not None
    assert declined.last_payment_error.decline_code == "generic_decline"


@pytest.mark.parametrize("name", ["off_session", "error_on_requires_action"])
async def test_where_nobody_can_authenticate_the_charge_is_declined(
    sandbox: StripeSandbox, charge: Any, name: str
) -> None:
    params = charge(payment_method="pm_card_authenticationRequiredOnSetup", **{name: True})
    with pytest.raises(stripe.CardError) as declined:
        await sandbox.client().v1.payment_intents.create_async(params)
    assert declined.value.code == "authentication_required"


async def test_without_a_way_back_the_redirect_is_left_to_the_sdk(
    sandbox: StripeSandbox, charge: Any
) -> None:
    intent = await sandbox.client().v1.payment_intents.create_async(
        charge(payment_method="pm_card_threeDSecure2Required")
    )
    assert intent.next_action is not None
    assert intent.next_action.type == "use_stripe_sdk"


async def test_an_intent_waiting_for_its_payer_can_be_canceled(
    sandbox: StripeSandbox, charge: Any
) -> None:
    intent = await asked(sandbox, charge)
    canceled = await sandbox.client().v1.payment_intents.cancel_async(intent.id)
    assert canceled.status == "canceled"
    async with httpx.AsyncClient() as demo:
        late = await demo.post(page_of(intent) + "/authenticate?outcome=success")
    assert late.json()["error"]["code"] == "payment_intent_unexpected_state"
    assert sandbox.account()["charges"] == {}
