from __future__ import annotations

from typing import Any

import pytest
import stripe

from smartpay_sandbox.testing import StripeSandbox


async def test_a_confirmed_card_charge_succeeds_and_tells_its_fee(
    sandbox: StripeSandbox, charge: Any
) -> None:
    intent = await sandbox.client().v1.payment_intents.create_async(
        charge(metadata={"attempt_id": "a1"}, expand=["latest_charge.balance_transaction"])
    )

    assert intent.status == "succeeded"
    assert intent.amount_received == 1999
    assert intent.metadata["attempt_id"] == "a1"
    assert isinstance(intent.latest_charge, stripe.Charge)
    moved = intent.latest_charge.balance_transaction
    assert isinstance(moved, stripe.BalanceTransaction)
    assert (moved.amount, moved.fee, moved.net) == (1999, 58 + 30, 1999 - 88)


async def test_the_two_step_way_confirms_an_intent_once(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    created = await client.v1.payment_intents.create_async(charge(confirm=None))
    assert created.status == "requires_confirmation"

    confirmed = await client.v1.payment_intents.confirm_async(created.id)
    assert confirmed.status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.payment_intents.confirm_async(created.id)

    assert refused.value.code == "payment_intent_unexpected_state"
    assert refused.value.error is not None
    assert refused.value.error.payment_intent is not None
    assert refused.value.error.payment_intent.status == "succeeded"
    assert len(sandbox.account()["charges"]) == 1


async def test_an_intent_without_a_payment_method_cannot_be_confirmed(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    created = await client.v1.payment_intents.create_async(
        charge(confirm=None, payment_method=None)
    )
    assert created.status == "requires_payment_method"

    with pytest.raises(stripe.InvalidRequestError, match="missing a payment method"):
        await client.v1.payment_intents.confirm_async(created.id)


async def test_a_partial_capture_takes_no_more_than_was_authorised(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    intent = await client.v1.payment_intents.create_async(charge(capture_method="manual"))
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 1999)

    for amount, code in ((2000, "amount_too_large"), (0, "parameter_invalid_integer")):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await client.v1.payment_intents.capture_async(intent.id, {"amount_to_capture": amount})
        assert (refused.value.code, refused.value.param) == (code, "amount_to_capture")
    captured = await client.v1.payment_intents.capture_async(intent.id, {"amount_to_capture": 500})

    assert (captured.status, captured.amount_received) == ("succeeded", 500)
    with pytest.raises(stripe.InvalidRequestError) as again:
        await client.v1.payment_intents.capture_async(intent.id)
    assert again.value.code == "payment_intent_unexpected_state"


async def test_a_canceled_authorisation_is_released_and_never_paid(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    intent = await client.v1.payment_intents.create_async(charge(capture_method="manual"))

    canceled = await client.v1.payment_intents.cancel_async(
        intent.id, {"cancellation_reason": "abandoned"}
    )

    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "abandoned")
    for command in ("confirm_async", "capture_async", "cancel_async"):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await getattr(client.v1.payment_intents, command)(intent.id)
        assert refused.value.code == "payment_intent_unexpected_state"
    (released,) = sandbox.account()["charges"].values()
    assert (released["captured"], released["refunded"]) == (False, True)
    assert sandbox.account()["balance_transactions"] == {}


async def test_refunds_together_never_exceed_what_was_captured(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    intent = await client.v1.payment_intents.create_async(charge(capture_method="manual"))
    with pytest.raises(stripe.InvalidRequestError, match="successful charge"):
        await client.v1.refunds.create_async({"payment_intent": intent.id})
    await client.v1.payment_intents.capture_async(intent.id, {"amount_to_capture": 1000})

    first = await client.v1.refunds.create_async(
        {"payment_intent": intent.id, "amount": 600, "reason": "requested_by_customer"}
    )
    assert (first.status, first.amount) == ("succeeded", 600)
    with pytest.raises(stripe.InvalidRequestError) as too_much:
        await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 401})
    assert too_much.value.param == "amount"
    rest = await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert rest.amount == 400
    with pytest.raises(stripe.InvalidRequestError) as nothing_left:
        await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert nothing_left.value.code == "charge_already_refunded"

    listed = await client.v1.refunds.list_async({"payment_intent": intent.id})
    assert [refund.id for refund in listed.data] == [rest.id, first.id]
    again = await client.v1.refunds.retrieve_async(first.id, {"expand": ["charge"]})
    assert isinstance(again.charge, stripe.Charge)
    assert (again.charge.refunded, again.charge.amount_refunded) == (True, 1000)


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"amount": 0}, "amount", "parameter_invalid_integer"),
        ({"amount": -5}, "amount", "parameter_invalid_integer"),
        ({"amount": 49}, "amount", "amount_too_small"),
        ({"amount": 100_000_000}, "amount", "amount_too_large"),
        ({"amount": "12.50"}, "amount", "parameter_invalid_integer"),
        ({"amount": 1001, "currency": "kwd"}, "amount", "parameter_invalid_integer"),
        ({"currency": "xyz"}, "currency", None),
        ({"amount": None}, "amount", "parameter_missing"),
        ({"capture_method": "later"}, "capture_method", None),
        ({"colour": "red"}, "colour", "parameter_unknown"),
        ({"payment_method_types": ["card"]}, "payment_method_types", "parameter_unknown"),
        ({"automatic_payment_methods": {"enabled": True, "to": "x"}},
         "automatic_payment_methods[to]", "parameter_unknown"),
        ({"transfer_group": "g"}, "transfer_group", None),
        ({"expand": ["latest_charge.colour"]}, "expand", None),
        ({"metadata": {"k": "v" * 501}}, "metadata[k]", None),
        ({"confirm": None, "off_session": True}, "off_session", None),
        ({"automatic_payment_methods": None}, "return_url", None),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_refused_by_name(
    sandbox: StripeSandbox, charge: Any, changes: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sandbox.client().v1.payment_intents.create_async(charge(**changes))

    assert (refused.value.http_status, refused.value.param, refused.value.code) == (
        400,
        param,
        code,
    )
    assert sandbox.account()["payment_intents"] == {}


async def test_an_unknown_or_absent_key_is_unauthorised(sandbox: StripeSandbox) -> None:
    with pytest.raises(stripe.AuthenticationError) as refused:
        await sandbox.client("sk_test_nobody").v1.payment_intents.list_async()

    assert refused.value.http_status == 401
    assert "sk_test_nobody" not in str(refused.value)


async def test_a_payment_method_is_unknown_on_another_account(
    sandbox: StripeSandbox, charge: Any
) -> None:
    method = await sandbox.client().v1.payment_methods.create_async(
        {"type": "card", "card": {"token": "tok_visa"}}
    )
    paid = await sandbox.client().v1.payment_intents.create_async(charge(payment_method=method.id))
    assert paid.payment_method == method.id

    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sandbox.client("sk_test_second").v1.payment_intents.create_async(
            charge(payment_method=method.id)
        )
    assert (refused.value.code, refused.value.param) == ("resource_missing", "payment_method")
    with pytest.raises(stripe.InvalidRequestError) as unread:
        await sandbox.client("sk_test_second").v1.payment_intents.retrieve_async(paid.id)
    assert (unread.value.http_status, unread.value.code) == (404, "resource_missing")
    assert sandbox.account("acct_second")["payment_intents"] == {}


async def test_the_same_card_has_the_same_fingerprint_and_another_card_another(
    sandbox: StripeSandbox,
) -> None:
    async def fingerprint(token: str) -> str:
        method = await sandbox.client().v1.payment_methods.create_async(
            {"type": "card", "card": {"token": token}}
        )
        assert method.card is not None
        return str(method.card.fingerprint)

    visa = await fingerprint("tok_visa")
    assert visa == await fingerprint("tok_visa")
    assert visa != await fingerprint("tok_mastercard")


async def test_a_card_number_is_never_taken(sandbox: StripeSandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sandbox.client().v1.payment_methods.create_async(
            {"type": "card", "card": {"number": "1" * 16, "exp_month": 1, "exp_year": 2030}}
        )
    assert refused.value.param == "card[number]"


@pytest.mark.parametrize(
    ("name", "code", "decline_code", "advice"),
    [
        ("visa_chargeDeclined", "card_declined", "generic_decline", "try_again_later"),
        ("chargeDeclined", "card_declined", "generic_decline", "try_again_later"),
        ("visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds",
         "try_again_later"),
        ("visa_chargeDeclinedLostCard", "card_declined", "lost_card", "do_not_try_again"),
        ("visa_chargeDeclinedStolenCard", "card_declined", "stolen_card", "do_not_try_again"),
        ("chargeDeclinedExpiredCard", "expired_card", None, "confirm_card_data"),
        ("chargeDeclinedIncorrectCvc", "incorrect_cvc", None, "confirm_card_data"),
        ("chargeDeclinedProcessingError", "processing_error", None, "try_again_later"),
        ("visa_chargeDeclinedVelocityLimitExceeded", "card_declined", "card_velocity_exceeded",
         "try_again_later"),
        ("radarBlock", "card_declined", "fraudulent", "do_not_try_again"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["pm_card_", "tok_"])
async def test_a_declined_card_says_why_and_leaves_a_failed_charge(
    sandbox: StripeSandbox,
    charge: Any,
    prefix: str,
    name: str,
    code: str,
    decline_code: str | None,
    advice: str,
) -> None:
    client = sandbox.client()
    method = prefix + name
    if prefix == "tok_":
        card: Any = {"type": "card", "card": {"token": method}}
        method = (await client.v1.payment_methods.create_async(card)).id

    with pytest.raises(stripe.CardError) as declined:
        await client.v1.payment_intents.create_async(charge(payment_method=method))

    failure = declined.value.error
    assert declined.value.http_status == 402
    assert failure is not None
    assert (failure.type, failure.code) == ("card_error", code)
    assert failure.to_dict().get("decline_code") == decline_code
    assert failure.advice_code == advice
    assert failure.payment_intent is not None
    intent = await client.v1.payment_intents.retrieve_async(failure.payment_intent.id)
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error is not None
    assert intent.last_payment_error.code == code
    failed = await client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert (failed.status, failed.paid, failed.failure_code) == ("failed", False, code)


async def test_lists_page_newest_first_and_filter_by_creation_time(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    made = []
    for _ in range(5):
        sandbox.clock.advance(10)
        made.append((await client.v1.payment_intents.create_async(charge())).id)

    first = await client.v1.payment_intents.list_async({"limit": 2})
    assert ([intent.id for intent in first.data], first.has_more) == (made[:2:-1], True)
    rest = await client.v1.payment_intents.list_async({"starting_after": made[3], "limit": 3})
    assert ([intent.id for intent in rest.data], rest.has_more) == (made[2::-1], False)
    now = int(sandbox.clock.now)
    recent = await client.v1.payment_intents.list_async(
        {"created": {"gt": now - 20, "lte": now}, "expand": ["data.latest_charge"]}
    )
    assert [intent.id for intent in recent.data] == [made[4], made[3]]
    assert isinstance(recent.data[0].latest_charge, stripe.Charge)
    exact = await client.v1.payment_intents.list_async({"created": now - 40})
    assert [intent.id for intent in exact.data] == [made[0]]
    charges = await client.v1.charges.list_async({"payment_intent": made[1]})
    assert [found.payment_intent for found in charges.data] == [made[1]]
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.list_async({"limit": 101})


async def test_an_endpoint_the_sandbox_lacks_is_not_found(sandbox: StripeSandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sandbox.client().v1.coupons.create_async({})
    assert refused.value.http_status == 404


async def test_another_api_version_is_refused(sandbox: StripeSandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="API version"):
        await sandbox.client().v1.charges.list_async({}, {"stripe_version": "2020-08-27"})
