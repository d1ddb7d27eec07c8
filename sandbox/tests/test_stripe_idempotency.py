from __future__ import annotations

import asyncio
from typing import Any

import pytest
import stripe

from smartpay_sandbox.stripe_idempotency import LIFE_SECONDS
from smartpay_sandbox.testing import StripeSandbox


async def test_a_repeated_key_answers_the_first_answer_and_charges_once(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    first = await client.v1.payment_intents.create_async(charge(), {"idempotency_key": "k"})
    again = await client.v1.payment_intents.create_async(charge(), {"idempotency_key": "k"})

    assert first.to_dict() == again.to_dict()
    assert first.last_response is not None
    assert again.last_response is not None
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.request_id
    assert len(sandbox.account()["charges"]) == 1
    assert sandbox.account()["idempotency_keys"]["k"] | {"created": 0} == {
        "seen": 2,
        "replayed": 1,
        "status": 200,
        "created": 0,
    }


async def test_a_decline_is_kept_under_its_key(sandbox: StripeSandbox, charge: Any) -> None:
    client = sandbox.client()
    params = charge(payment_method="pm_card_chargeDeclined")
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            await client.v1.payment_intents.create_async(params, {"idempotency_key": "k"})

    assert len(sandbox.account()["charges"]) == 1


async def test_a_key_reused_for_another_request_is_refused(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    options: Any = {"idempotency_key": "k"}
    intent = await client.v1.payment_intents.create_async(charge(), options)

    with pytest.raises(stripe.IdempotencyError) as other_amount:
        await client.v1.payment_intents.create_async(charge(amount=2000), options)
    assert other_amount.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError):
        await client.v1.payment_intents.cancel_async(intent.id, {}, options)
    assert len(sandbox.account()["charges"]) == 1


async def test_keys_of_two_accounts_do_not_meet(sandbox: StripeSandbox, charge: Any) -> None:
    options: Any = {"idempotency_key": "k"}
    first = await sandbox.client().v1.payment_intents.create_async(charge(), options)
    second = await sandbox.client("sk_test_second").v1.payment_intents.create_async(
        charge(amount=700), options
    )
    assert first.id != second.id


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_key_in_use_is_a_conflict_and_the_first_request_wins(
    sandbox: StripeSandbox, charge: Any, when: str
) -> None:
    sandbox.simulator.set_faults([{"kind": "slow", "delay_ms": 400, "times": 1, "when": when}])
    client = sandbox.client(timeout_seconds=60)

    async def pay() -> stripe.PaymentIntent:
        return await client.v1.payment_intents.create_async(charge(), {"idempotency_key": "k"})

    first = asyncio.create_task(pay())
    while "k" not in sandbox.account()["idempotency_keys"]:
        await asyncio.sleep(0)
    for _ in range(8):
        with pytest.raises(stripe.APIError) as refused:
            await pay()
        assert refused.value.http_status == 409
        assert "idempotency_key_in_use" in str(refused.value.http_body)
    sandbox.clock.advance(0.4)

    assert (await first).id == (await pay()).id
    assert len(sandbox.account()["charges"]) == 1


async def test_a_request_refused_before_execution_leaves_its_key_free(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    options: Any = {"idempotency_key": "k"}
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.create_async(charge(amount=0), options)
    with pytest.raises(stripe.AuthenticationError):
        await sandbox.client("sk_test_no").v1.payment_intents.create_async(charge(), options)
    sandbox.simulator.set_faults([{"kind": "rate_limit", "times": 1}])
    with pytest.raises(stripe.RateLimitError):
        await client.v1.payment_intents.create_async(charge(), options)

    intent = await client.v1.payment_intents.create_async(charge(), options)
    assert intent.status == "succeeded"


async def test_a_refusal_during_execution_is_kept(sandbox: StripeSandbox, charge: Any) -> None:
    client = sandbox.client()
    intent = await client.v1.payment_intents.create_async(charge(capture_method="manual"))
    options: Any = {"idempotency_key": "k"}
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.refunds.create_async({"payment_intent": intent.id}, options)
    await client.v1.payment_intents.capture_async(intent.id)

    with pytest.raises(stripe.InvalidRequestError, match="successful charge"):
        await client.v1.refunds.create_async({"payment_intent": intent.id}, options)
    assert sandbox.account()["refunds"] == {}


async def test_a_key_dies_after_a_day_and_then_charges_again(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    options: Any = {"idempotency_key": "k"}
    first = await client.v1.payment_intents.create_async(charge(), options)
    sandbox.clock.advance(LIFE_SECONDS - 1)
    assert (await client.v1.payment_intents.create_async(charge(), options)).id == first.id

    sandbox.clock.advance(1)
    assert (await client.v1.payment_intents.create_async(charge(), options)).id != first.id
    assert len(sandbox.account()["charges"]) == 2
