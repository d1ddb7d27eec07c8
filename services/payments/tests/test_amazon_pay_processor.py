"""The adapter against the sandbox that speaks Amazon Pay's wire and verifies every signature.

Ten pitfalls of this vendor, each with its test here or beside it:

1. Keys have 32 characters at most, and Amazon keeps the first answer under one for ever.
2. A completion under a key would keep an early refusal for ever, so it goes without.
3. A session looks open after the buyer's consent; only completing it moves money, only once.
4. There is no way to cancel an open session; what it offers must be changed instead.
5. 201 and 202 are no success: authorizations, late captures and all refunds end later.
6. A replayed server error looks like a new one, and nothing can be listed by our own reference.
7. Amounts are decimal texts, written in several ways, with other decimals per currency.
8. Old keys need the environment in the path, new ones must not have it; the path is signed.
9. Only JSON with a reason code is Amazon's word; 404, 403 or 422 of a proxy prove nothing.
10. Sessions expire after a day, authorizations after thirty, and sessions are forgotten then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.payments.tests.amazon_pay_till import (
    CHARGES,
    MANUAL,
    NO_ANSWER,
    SECOND,
    SESSIONS,
    Till,
    opened_till,
)
from smartpay_chassis.ids import derive
from smartpay_chassis.refusals import Refusal
from smartpay_payments.adapters.amazon_pay_processor import (
    SESSION_PATIENCE,
    SIMULATION,
)
from smartpay_payments.domain.payment import (
    ActionKind,
    Initiator,
    Money,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Pending,
)
from smartpay_sandbox.amazon_pay_account import SETTLING_SECONDS


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with opened_till(tmp_path) as made:
        yield made


# ---- checkout --------------------------------------------------------------------------------


async def test_a_payer_is_sent_to_amazon_and_nothing_is_charged_before_they_agree(
    till: Till,
) -> None:
    payment, attempt = till.attempt()
    outcome = await till.processor.charge(payment, attempt)
    assert isinstance(outcome, ActionRequired)
    assert outcome.action.kind is ActionKind.AMAZON_CHECKOUT
    assert outcome.action.url.endswith(f"/amazon_pay/checkout/{outcome.processor_payment_id}")
    known = replace(attempt, processor_payment_id=outcome.processor_payment_id)
    assert await till.processor.look(payment, known) == outcome, "no news while nobody agrees"
    assert till.charges() == []


async def test_a_payer_who_agreed_is_charged_by_the_next_look(till: Till) -> None:
    payment, attempt = await till.agreed()
    assert till.charges() == [], "the payer's consent moves no money"
    outcome = await till.processor.look(payment, attempt)
    (charge,) = till.charges()
    assert outcome == Charged(charge["chargeId"], 1999, 1999)
    assert charge["merchantMetadata"]["merchantReferenceId"] == payment.payment_id
    again = replace(attempt, processor_payment_id=charge["chargeId"])
    assert await till.processor.look(payment, again) == outcome


async def test_a_look_at_an_attempt_that_has_ended_charges_nobody(till: Till) -> None:
    payment, attempt = await till.agreed()
    ended = replace(attempt, end_time=till.clock())
    assert isinstance(await till.processor.look(payment, ended), ActionRequired)
    assert till.charges() == []
    assert isinstance(await till.processor.look(payment, attempt), Charged)


async def test_looks_that_race_complete_a_session_once(till: Till) -> None:
    payment, attempt = await till.agreed()
    looks = [till.processor.look(payment, attempt) for _ in range(8)]
    outcomes = await asyncio.gather(*looks)
    (charge,) = till.charges()
    assert set(outcomes) == {Charged(charge["chargeId"], 1999, 1999)}


async def test_everything_an_order_says_reaches_amazon(till: Till) -> None:
    payment, attempt = till.attempt(
        statement_descriptor="A SHOP WITH A LONG NAME",
        merchant_order_id="order-1",
        description="Two chairs",
    )
    outcome = await till.processor.charge(payment, attempt)
    assert isinstance(outcome, ActionRequired)
    (session,) = till.objects("checkoutSession")
    assert session["paymentDetails"]["softDescriptor"] == "A SHOP WITH A LO"
    assert session["merchantMetadata"] == {
        "merchantReferenceId": payment.payment_id,
        "merchantStoreName": None,
        "noteToBuyer": "Two chairs",
        "customInformation": "order order-1",
    }


async def test_each_account_charges_with_its_own_key_and_store(till: Till) -> None:
    await till.charged(account=SECOND)
    assert (len(till.charges("AFIRST")), len(till.charges("ASECOND"))) == (0, 1)


@pytest.mark.parametrize(
    ("currency", "minor", "amount"),
    [("JPY", 1999, "1999"), ("EUR", 5, "0.05"), ("USD", 100, "1.00")],
)
async def test_amounts_go_and_come_as_decimal_texts_of_their_currency(
    till: Till, currency: str, minor: int, amount: str
) -> None:
    payment, attempt = await till.charged(amount=Money(minor, currency))
    (charge,) = till.charges()
    assert charge["chargeAmount"] == {"amount": amount, "currencyCode": currency}
    assert await till.processor.look(payment, attempt) == Charged(
        attempt.processor_payment_id, minor, minor
    )


async def test_a_currency_amazon_does_not_charge_in_is_refused_before_anything_is_stored(
    till: Till,
) -> None:
    with pytest.raises(Refusal) as refused:
        till.attempt(amount=Money(1000, "KWD"))
    assert (refused.value.reason, refused.value.field) == (
        "NO_ELIGIBLE_ACCOUNT",
        "amount.currency_code",
    )


async def test_a_payer_who_walks_away_cancels_and_one_who_is_declined_is_declined(
    till: Till,
) -> None:
    payment, attempt, url = await till.opened()
    await till.sandbox.buyer(url, "cancel")
    assert await till.processor.look(payment, attempt) == Canceled(attempt.processor_payment_id)

    payment, attempt, url = await till.opened(index=1)
    await till.sandbox.buyer(url, "agree?card=3434")
    for _ in range(2):
        assert await till.processor.look(payment, attempt) == Declined(
            "payment_declined", soft=False, processor_payment_id=attempt.processor_payment_id
        )
    assert till.charges() == []


async def test_a_session_nobody_completed_within_a_day_is_canceled(till: Till) -> None:
    payment, attempt = await till.agreed()
    till.later(hours=24)
    assert await till.processor.look(payment, attempt) == Canceled(attempt.processor_payment_id)
    assert till.charges() == []


async def test_a_session_amazon_has_forgotten_is_not_known(till: Till) -> None:
    payment, attempt, _ = await till.opened()
    till.later(days=31)
    assert await till.processor.look(payment, attempt) == NotKnown(
        "resource_not_found", attempt.processor_payment_id
    )


async def test_nobody_present_means_no_checkout(till: Till) -> None:
    absences: tuple[dict[str, Any], ...] = (
        {"off_session": True},
        {"initiator": Initiator.MERCHANT},
    )
    for absent in absences:
        payment, attempt = till.attempt(**absent)
        assert await till.processor.charge(payment, attempt) == Declined(
            "authentication_required", soft=False
        )
    assert till.objects("checkoutSession") == []


# ---- asynchronous authorization --------------------------------------------------------------


async def test_an_authorization_that_takes_its_time_is_pending_and_then_held(till: Till) -> None:
    payment, attempt = await till.charged("0701", **MANUAL)
    charge_id = attempt.processor_payment_id
    assert await till.processor.look(payment, attempt) == Pending(
        charge_id, "authorization_pending"
    )
    till.later(seconds=SETTLING_SECONDS)
    assert await till.processor.look(payment, attempt) == Charged(charge_id, 1999, 0)


async def test_an_authorization_may_be_declined_after_a_while(till: Till) -> None:
    payment, attempt = await till.charged("4354", **MANUAL)
    till.later(seconds=SETTLING_SECONDS)
    assert await till.processor.look(payment, attempt) == Declined(
        "hard_declined", soft=False, processor_payment_id=attempt.processor_payment_id
    )


async def test_a_late_capture_is_pending_and_then_captured(till: Till) -> None:
    payment, attempt = await till.charged(**MANUAL)
    till.later(days=8)
    charge_id = attempt.processor_payment_id
    pending = till.capture(1500)
    for _ in range(2):
        assert await till.processor.capture(payment, attempt, pending) == Pending(
            charge_id, "capture_pending"
        )
    till.later(seconds=SETTLING_SECONDS)
    assert await till.processor.look(payment, attempt) == Charged(charge_id, 1999, 1500)


async def test_an_authorization_ends_after_thirty_days(till: Till) -> None:
    payment, attempt = await till.charged(**MANUAL)
    till.later(days=30)
    assert await till.processor.look(payment, attempt) == Canceled(attempt.processor_payment_id)


# ---- charge permissions ----------------------------------------------------------------------


async def test_a_payer_who_agreed_before_is_charged_at_once(till: Till) -> None:
    permission = till.permission()
    payment, attempt = till.attempt(permission, off_session=True, initiator=Initiator.MERCHANT)
    outcome = await till.processor.charge(payment, attempt)
    (charge,) = till.charges()
    assert outcome == Charged(charge["chargeId"], 1999, 1999)
    assert charge["chargePermissionId"] == permission
    assert await till.processor.charge(payment, attempt) == outcome
    assert len(till.charges()) == 1


@pytest.mark.parametrize(
    ("simulated", "code", "soft"),
    [
        ("SoftDeclined", "soft_declined", True),
        ("HardDeclined", "hard_declined", False),
        ("AmazonRejected", "amazon_rejected", False),
        ("TransactionTimedOut", "transaction_timed_out", True),
    ],
)
async def test_a_decline_says_why_and_whether_another_account_may_try(
    till: Till, simulated: str, code: str, soft: bool
) -> None:
    payment, attempt = till.attempt(till.permission(), metadata={SIMULATION: simulated})
    outcome = await till.processor.charge(payment, attempt)
    assert outcome == Declined(code, soft)
    assert await till.processor.charge(payment, attempt) == outcome, "a replay says the same"
    assert till.charges() == []


async def test_a_live_payment_simulates_nothing(till: Till) -> None:
    payment, attempt = till.attempt(till.permission(), metadata={SIMULATION: "HardDeclined"})
    assert isinstance(
        await till.processor.charge(replace(payment, livemode=True), attempt), Charged
    )


@pytest.mark.parametrize("token", ["S01-0000000-0000000", "nobody knows"])
async def test_an_unknown_permission_is_a_soft_refusal(till: Till, token: str) -> None:
    payment, attempt = till.attempt(token)
    assert await till.processor.charge(payment, attempt) == Declined(
        "refused_resource_not_found", soft=True
    )


async def test_a_key_that_is_too_long_for_amazon_is_cut_the_same_way_each_time(till: Till) -> None:
    payment, attempt = till.attempt(till.permission(), index=10)
    assert len(attempt.processor_key) == 33
    first = await till.processor.charge(payment, attempt)
    assert isinstance(first, Charged)
    assert await till.processor.charge(payment, attempt) == first
    (key,) = till.sandbox.merchant()["idempotency_keys"]
    assert len(key) == 32


async def test_another_merchants_permission_is_no_permission(till: Till) -> None:
    payment, attempt = till.attempt(till.permission(merchant_id="ASECOND"))
    assert await till.processor.charge(payment, attempt) == Declined(
        "refused_resource_not_found", soft=True
    )


async def test_a_closed_permission_is_a_soft_refusal(till: Till) -> None:
    permission = till.permission()
    payment, attempt = till.attempt(permission, metadata={SIMULATION: "AmazonRejected"})
    await till.processor.charge(payment, attempt)
    payment, attempt = till.attempt(permission, index=1)
    assert await till.processor.charge(payment, attempt) == Declined(
        "refused_invalid_charge_permission_status", soft=True
    )


async def test_a_canceled_charge_leaves_the_payers_permission_usable(till: Till) -> None:
    permission = till.permission()
    payment, attempt = till.attempt(permission, **MANUAL)
    held = await till.processor.charge(payment, attempt)
    assert isinstance(held, Charged)
    attempt = replace(attempt, processor_payment_id=held.processor_payment_id)
    for _ in range(2):
        assert await till.processor.cancel(payment, attempt, "key") == Canceled(
            held.processor_payment_id
        )
    _, another = till.attempt(permission, index=1)
    assert isinstance(await till.processor.charge(payment, another), Charged)


# ---- no answer -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit"])
async def test_a_lost_answer_is_not_known_and_its_replay_is_the_one_session(
    till: Till, kind: str
) -> None:
    till.break_next(kind, SESSIONS)
    payment, attempt = till.attempt()
    assert await till.processor.charge(payment, attempt) == NO_ANSWER
    assert isinstance(await till.processor.charge(payment, attempt), ActionRequired)
    assert len(till.objects("checkoutSession")) == 1


async def test_a_session_that_is_burnt_is_given_up_because_nobody_can_complete_it(
    till: Till,
) -> None:
    till.break_next("error_after", SESSIONS)
    payment, attempt = till.attempt()
    for _ in range(2):
        assert await till.processor.charge(payment, attempt) == NO_ANSWER
    till.later(seconds=SESSION_PATIENCE.total_seconds() + 1)
    assert await till.processor.charge(payment, attempt) == Declined("processing_error", soft=True)
    assert till.charges() == []


async def test_a_burnt_charge_stays_unknown_and_charges_nothing_more(till: Till) -> None:
    till.break_next("error_after", CHARGES)
    payment, attempt = till.attempt(till.permission())
    for _ in range(3):
        assert await till.processor.charge(payment, attempt) == NO_ANSWER
        till.later(hours=1)
    (charge,) = till.charges()
    found = replace(attempt, processor_payment_id=charge["chargeId"])
    assert isinstance(await till.processor.look(payment, found), Charged), "an operator's evidence"


async def test_a_failure_of_amazons_own_is_no_proof_of_anything(till: Till) -> None:
    payment, attempt = till.attempt(till.permission(), metadata={SIMULATION: "ProcessingFailure"})
    assert await till.processor.charge(payment, attempt) == NO_ANSWER


async def test_a_time_out_is_not_known_in_flight_after_that_and_then_the_one_charge(
    till: Till,
) -> None:
    impatient = till.another(timeout_seconds=0.2)
    till.break_next("slow", CHARGES, delay_ms=60_000)
    payment, attempt = till.attempt(till.permission())
    assert await impatient.charge(payment, attempt) == NO_ANSWER
    assert await till.processor.charge(payment, attempt) == NotKnown("first_request_in_flight")
    till.later(seconds=60)
    while not till.charges():
        await asyncio.sleep(0)
    assert isinstance(await till.processor.charge(payment, attempt), Charged)
    assert len(till.charges()) == 1
    await impatient.close()


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "error_after"])
async def test_a_completion_without_an_answer_is_not_known_and_then_the_one_charge(
    till: Till, kind: str
) -> None:
    payment, attempt = await till.agreed()
    till.break_next(kind, SESSIONS, method="POST")
    assert await till.processor.look(payment, attempt) == NotKnown(
        "no_answer", attempt.processor_payment_id
    )
    outcome = await till.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert len(till.charges()) == 1


async def test_a_charge_that_can_not_be_read_after_its_completion_is_known_by_its_id(
    till: Till,
) -> None:
    payment, attempt = await till.agreed()
    till.break_next("error_before", CHARGES)
    outcome = await till.processor.look(payment, attempt)
    (charge,) = till.charges()
    assert outcome == NotKnown("no_answer", charge["chargeId"])


async def test_turned_away_is_not_taken_when_charging_and_not_known_when_looking(
    till: Till,
) -> None:
    till.break_next("rate_limit", "/v2", times=2)
    payment, attempt = till.attempt()
    assert await till.processor.charge(payment, attempt) == NotTaken("too_many_requests")
    known = replace(attempt, processor_payment_id="00000000-0000-0000-0000-000000000000")
    assert await till.processor.look(payment, known) == NotKnown(
        "too_many_requests", known.processor_payment_id
    )
    assert till.objects("checkoutSession") == []


async def test_another_body_under_the_key_is_never_guessed_about(till: Till) -> None:
    payment, attempt = till.attempt(till.permission())
    await till.processor.charge(payment, attempt)
    other = {**json.loads(attempt.request_body), "captureNow": False}
    assert await till.processor.charge(
        payment, replace(attempt, request_body=json.dumps(other))
    ) == NotKnown("idempotency_mismatch")


async def test_an_id_that_is_none_of_amazons_is_not_known_and_goes_nowhere(till: Till) -> None:
    payment, attempt = till.attempt()
    odd = replace(attempt, processor_payment_id="../v2/charges")
    unknown = NotKnown("not_an_amazon_pay_id", "../v2/charges")
    assert await till.processor.look(payment, odd) == unknown
    assert await till.processor.cancel(payment, odd, "key") == unknown
    assert till.sandbox.simulator.dump()["requests"] == {}


async def test_a_charge_of_another_payment_is_never_taken_for_this_ones(till: Till) -> None:
    payment, attempt = await till.charged()
    stranger = replace(payment, payment_id=derive("pay", "d1", "other"))
    assert await till.processor.look(stranger, attempt) == NotKnown("charge_of_another_payment")
