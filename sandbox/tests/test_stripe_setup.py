"""Cards saved for customers, by the unmodified SDK; every answer is held to its annotations."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import stripe

from smartpay_sandbox.testing import StripeSandbox

BACK = "https://shop.example/back"


async def customer(sandbox: StripeSandbox) -> str:
    made = await sandbox.client().v1.customers.create_async(
        {"email": "a@example.com", "metadata": {"customer": "c1"}}
    )
    return str(made.id)


async def saved(sandbox: StripeSandbox, owner: str, token: str = "tok_visa") -> str:
    client = sandbox.client()
    method = await client.v1.payment_methods.create_async(
        {"type": "card", "card": {"token": token}}
    )
    attached = await client.v1.payment_methods.attach_async(method.id, {"customer": owner})
    assert attached.customer == owner
    return str(method.id)


async def set_up(
    sandbox: StripeSandbox, owner: str, method: str = "pm_card_visa", **more: Any
) -> stripe.SetupIntent:
    params: Any = {
        "customer": owner,
        "payment_method": method,
        "allowed_payment_method_types": ["card"],
        "confirm": True,
        "return_url": BACK,
        **more,
    }
    return await sandbox.client().v1.setup_intents.create_async(params)


async def test_a_card_that_is_set_up_belongs_to_its_customer_and_is_charged_again(
    sandbox: StripeSandbox, charge: Any
) -> None:
    owner = await customer(sandbox)
    setup = await set_up(sandbox, owner)
    assert (setup.status, setup.usage) == ("succeeded", "off_session")
    for _ in range(2):
        paid = await sandbox.client().v1.payment_intents.create_async(
            charge(payment_method=setup.payment_method, customer=owner, off_session=True)
        )
        assert (paid.status, paid.customer) == ("succeeded", owner)


async def test_a_saved_card_is_charged_for_its_customer_alone(
    sandbox: StripeSandbox, charge: Any
) -> None:
    owner, other = await customer(sandbox), await customer(sandbox)
    method = await saved(sandbox, owner)
    create = sandbox.client().v1.payment_intents.create_async
    with pytest.raises(stripe.InvalidRequestError, match="belongs to the Customer"):
        await create(charge(payment_method=method))
    with pytest.raises(stripe.InvalidRequestError, match="does not have a payment method"):
        await create(charge(payment_method=method, customer=other))
    with pytest.raises(stripe.InvalidRequestError, match="already been attached"):
        await sandbox.client().v1.payment_methods.attach_async(method, {"customer": other})


async def test_a_card_of_nobody_is_charged_once(sandbox: StripeSandbox, charge: Any) -> None:
    client = sandbox.client()
    method = await client.v1.payment_methods.create_async(
        {"type": "card", "card": {"token": "tok_visa"}}
    )
    await client.v1.payment_intents.create_async(charge(payment_method=method.id))
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        await client.v1.payment_intents.create_async(charge(payment_method=method.id))


async def test_a_detached_card_is_nobody_s(sandbox: StripeSandbox) -> None:
    owner = await customer(sandbox)
    method = await saved(sandbox, owner)
    detached = await sandbox.client().v1.payment_methods.detach_async(method)
    assert detached.customer is None
    with pytest.raises(stripe.InvalidRequestError, match="detachment is impossible"):
        await sandbox.client().v1.payment_methods.detach_async(method)


@pytest.mark.parametrize(("outcome", "status"), [("success", "succeeded"), ("fail", None)])
async def test_a_card_that_asks_for_the_payer_is_saved_once_they_passed(
    sandbox: StripeSandbox, outcome: str, status: str | None
) -> None:
    owner = await customer(sandbox)
    setup = await set_up(sandbox, owner, "pm_card_authenticationRequired")
    assert setup.status == "requires_action"
    assert setup.next_action is not None
    assert setup.next_action.redirect_to_url is not None
    page = str(setup.next_action.redirect_to_url.url)
    async with httpx.AsyncClient() as browser:
        assert "Saving a card" in (await browser.get(page)).text
        back = await browser.get(f"{page}/authenticate?outcome={outcome}")
        assert back.headers["location"].startswith(f"{BACK}?setup_intent={setup.id}&")
        again = await browser.post(f"{page}/authenticate?outcome=success")
        assert again.status_code == 400
    after = await sandbox.client().v1.setup_intents.retrieve_async(setup.id)
    assert after.status == (status or "requires_payment_method")
    if status is None:
        assert after.last_setup_error is not None
        assert after.last_setup_error.code == "setup_intent_authentication_failure"


async def test_a_card_set_up_once_is_renewed_without_its_payer(
    sandbox: StripeSandbox, charge: Any
) -> None:
    owner = await customer(sandbox)
    client = sandbox.client()
    method = await saved(sandbox, owner, "tok_authenticationRequiredOnSetup")
    with pytest.raises(stripe.CardError) as refused:
        await client.v1.payment_intents.create_async(
            charge(payment_method=method, customer=owner, off_session=True)
        )
    assert refused.value.code == "authentication_required"
    setup = await set_up(sandbox, owner, method)
    assert setup.next_action is not None
    assert setup.next_action.redirect_to_url is not None
    async with httpx.AsyncClient() as browser:
        await browser.post(f"{setup.next_action.redirect_to_url.url}/authenticate?outcome=success")
    renewed = await client.v1.payment_intents.create_async(
        charge(payment_method=method, customer=owner, off_session=True)
    )
    assert renewed.status == "succeeded"


async def test_a_declining_card_is_not_saved_but_for_the_one_whose_charges_decline(
    sandbox: StripeSandbox, charge: Any
) -> None:
    owner = await customer(sandbox)
    with pytest.raises(stripe.CardError) as refused:
        await set_up(sandbox, owner, "pm_card_chargeDeclinedInsufficientFunds")
    assert refused.value.error is not None
    assert refused.value.error.decline_code == "insufficient_funds"
    method = await saved(sandbox, owner, "tok_chargeCustomerFail")
    with pytest.raises(stripe.CardError):
        await sandbox.client().v1.payment_intents.create_async(
            charge(payment_method=method, customer=owner)
        )


async def test_a_repeated_key_sets_up_once(sandbox: StripeSandbox) -> None:
    owner = await customer(sandbox)
    params: Any = {"customer": owner, "payment_method": "pm_card_visa", "confirm": True}
    create = sandbox.client().v1.setup_intents.create_async
    params["return_url"] = BACK
    first = await create(params, {"idempotency_key": "k"})
    assert (await create(params, {"idempotency_key": "k"})).id == first.id
    assert len(sandbox.account()["setup_intents"]) == 1


async def test_a_deleted_customer_leaves_nothing_personal_and_no_card(
    sandbox: StripeSandbox, charge: Any
) -> None:
    owner = await customer(sandbox)
    method = await saved(sandbox, owner)
    gone = await sandbox.client().v1.customers.delete_async(owner)
    assert gone.deleted is True
    assert "a@example.com" not in str(sandbox.account())
    assert sandbox.account()["payment_methods"][method]["customer"] is None
    for call in (
        sandbox.client().v1.customers.delete_async(owner),
        sandbox.client().v1.payment_intents.create_async(charge(customer=owner)),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await call
        assert refused.value.code == "resource_missing"
