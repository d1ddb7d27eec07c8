from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from smartpay.payments.v1 import merchants_pb2, payment_pb2
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    OTHER_ACCOUNT,
    OTHER_MERCHANT,
    TEST_MERCHANTS,
)
from smartpay_payments.adapters.secret_files import SecretFiles
from smartpay_payments.back_office import open_back_office
from smartpay_payments.domain.eligibility import blocking_reason, holding_reason
from smartpay_payments.domain.merchants import FailPolicy, Settings
from smartpay_payments.domain.payment import FraudOpinion, Money

M = merchants_pb2
FIRST, SECOND = DEMO_ACCOUNTS
TENANT = (DEMO_MERCHANT.merchant_id, False)


async def read(office: Any, merchant: Any = DEMO_MERCHANT) -> M.Merchant:
    response = await office.ask(
        office.merchants.GetMerchant, M.GetMerchantRequest(), merchant=merchant
    )
    found: M.Merchant = response.merchant
    return found


def changed(merchant: M.Merchant, **settings: Any) -> M.UpdateMerchantRequest:
    request = M.UpdateMerchantRequest(etag=merchant.etag, settings=merchant.settings)
    present: Any = request.settings
    for name in settings:
        present.ClearField(name)
    request.settings.MergeFrom(M.MerchantSettings(**settings))
    return request


async def update(office: Any, **settings: Any) -> M.Merchant:
    request = changed(await read(office), **settings)
    response = await office.ask(office.merchants.UpdateMerchant, request)
    found: M.Merchant = response.merchant
    return found


async def test_settings_begin_as_the_mounted_table_says(office: Any) -> None:
    merchant = await read(office)
    assert merchant.name == "Demo"
    assert merchant.settings.fraud_fail_policy == M.FRAUD_FAIL_POLICY_CLOSED
    assert merchant.settings.fraud_review_policy == M.FRAUD_REVIEW_POLICY_CHARGE
    assert merchant.settings.rewards_enabled
    assert not merchant.settings.HasField("reward_vesting_seconds")
    assert not merchant.HasField("update_time")


async def test_a_change_counts_at_once_and_outlives_a_restart(office: Any) -> None:
    await update(
        office,
        fraud_review_policy=M.FRAUD_REVIEW_POLICY_HOLD,
        account_order=[SECOND],
        attempts_max=1,
        cascade_seconds=7,
        rewards_enabled=False,
        reward_vesting_seconds=0,
        capture_method=payment_pb2.CAPTURE_METHOD_MANUAL,
    )
    again = await restarted(office)
    for directory in (office.parts.directory, again.directory):
        terms = directory.terms(*TENANT)
        assert [a.processor_account_id for a in terms.accounts] == [SECOND, FIRST]
        assert terms.holds_what_needs_review
        assert (terms.attempts_max, terms.cascade_seconds) == (1, 7.0)
        assert not terms.rewards_enabled
        profile = directory.get(*TENANT)
        assert profile.settings.reward_vesting_seconds == 0
        assert profile.settings.capture_method == "MANUAL"


async def test_a_payment_keeps_the_category_it_was_created_in(office: Any) -> None:
    for code in ("7922", ""):
        answered = await update(office, merchant_category=code)
        assert answered.settings.merchant_category == code
        terms = (await restarted(office)).directory.terms(*TENANT)
        made = await office.story.saga.create(office.story.draft(f"key-{code}"), terms)
        assert (await office.story.read(made)).merchant_category == code


async def restarted(office: Any) -> Any:
    """Reads the back office anew from what is stored."""
    app: Any = SimpleNamespace(merchants=TEST_MERCHANTS)
    store = SecretFiles(office.secrets)
    return await open_back_office(app, office.story.store, office.story.payments, store, Settings())


async def test_a_change_of_what_somebody_else_changed_is_refused(office: Any) -> None:
    stale = changed(await read(office), attempts_max=2)
    await update(office, attempts_max=5)
    refused = await office.refused(office.merchants.UpdateMerchant, stale)
    assert (refused["code"], refused["reason"]) == ("ABORTED", "ETAG_MISMATCH")
    assert (await read(office)).settings.attempts_max == 5


async def test_test_and_live_and_other_merchants_have_settings_of_their_own(office: Any) -> None:
    await update(office, attempts_max=5)
    assert (await read(office, OTHER_MERCHANT)).settings.attempts_max == 3
    assert office.parts.directory.get(DEMO_MERCHANT.merchant_id, True) is None


@pytest.mark.parametrize(
    ("settings", "reason", "field"),
    [
        ({"attempts_max": 9}, "FIELD_INVALID", "settings.attempts_max"),
        ({"fraud_fail_policy": 0}, "FIELD_INVALID", "settings.fraud_fail_policy"),
        ({"account_order": [OTHER_ACCOUNT]}, "ACCOUNT_NOT_FOUND", "processor_account_id"),
        (
            {"fraud_fail_limits": [{"minor_units": 5, "currency_code": "USD"}]},
            "FIELD_INVALID",
            "settings.fraud_fail_limits",
        ),
        (
            {
                "fraud_fail_policy": M.FRAUD_FAIL_POLICY_RULES,
                "fraud_fail_limits": [{"minor_units": 5, "currency_code": "USD"}] * 2,
            },
            "FIELD_INVALID",
            "settings.fraud_fail_limits",
        ),
    ],
)
async def test_what_makes_no_rule_is_refused_by_field(
    office: Any, settings: Any, reason: str, field: str
) -> None:
    request = changed(await read(office), **settings)
    refused = await office.refused(office.merchants.UpdateMerchant, request)
    assert (refused["reason"], refused["field"]) == (reason, field)
    assert office.parts.directory.changed() == []


@pytest.mark.parametrize(
    ("policy", "minor", "currency", "blocked"),
    [
        (FailPolicy.OPEN, 10_000, "USD", False),
        (FailPolicy.CLOSED, 1, "USD", True),
        (FailPolicy.RULES, 5_000, "USD", False),
        (FailPolicy.RULES, 5_001, "USD", True),
        (FailPolicy.RULES, 1, "EUR", True),
    ],
)
async def test_the_fail_policy_decides_when_fraud_is_away(
    office: Any, policy: FailPolicy, minor: int, currency: str, blocked: bool
) -> None:
    limits = [{"minor_units": 5_000, "currency_code": "USD"}]
    await update(
        office,
        fraud_fail_policy=M.FraudFailPolicy.Value(f"FRAUD_FAIL_POLICY_{policy.value}"),
        fraud_fail_limits=limits if policy is FailPolicy.RULES else [],
    )
    terms = office.parts.directory.terms(*TENANT)
    assert bool(blocking_reason(None, terms, Money(minor, currency))) is blocked


async def test_the_review_policy_decides_what_fraud_doubts(office: Any) -> None:
    doubt = FraudOpinion("REVIEW", 0.6, "velocity", b"")
    told = []
    for policy in ("CHARGE", "BLOCK", "HOLD"):
        number = M.FraudReviewPolicy.Value(f"FRAUD_REVIEW_POLICY_{policy}")
        await update(office, fraud_review_policy=number)
        terms = office.parts.directory.terms(*TENANT)
        told.append((blocking_reason(doubt, terms), holding_reason(doubt, terms)))
    assert told == [("", ""), ("velocity", ""), ("", "velocity")]


async def test_each_change_is_one_event_of_the_one_log_and_one_record(office: Any) -> None:
    await office.story.create("before")
    await update(office, attempts_max=5)
    await office.story.create("after")
    log = await office.log((await office.log())[0].cursor or "")
    kinds = ["merchant" if s.HasField("merchant_event") else "payment" for s in log[:-1]]
    # From an empty cursor the present settings come first, then the log as it was.
    assert kinds == ["merchant", "payment", "payment", "merchant", "payment", "payment"]
    first, change = (s.merchant_event for s in log[:-1] if s.HasField("merchant_event"))
    assert first == change
    assert (change.type, change.sequence) == ("smartpay.merchant.updated.v1", 1)
    assert (change.merchant_id, change.livemode) == TENANT
    assert change.settings.attempts_max == 5
    (record,) = await office.records()
    assert record.action == "MerchantsService.UpdateMerchant"
    assert [(c.field, c.before, c.after) for c in record.changes] == [("attempts_max", "3", "5")]


async def test_a_reader_who_comes_late_learns_settings_that_the_log_forgot(office: Any) -> None:
    await update(office, attempts_max=5)
    later = office.story.clock() + timedelta(days=31)
    assert await office.story.payments.forget_events(later) == 1
    first, end = await office.log()
    assert first.merchant_event.settings.attempts_max == 5
    assert first.cursor == ""
    assert end.caught_up


async def test_an_order_follows_the_settings_of_its_merchant_at_once(office: Any) -> None:
    office.story.advisor.ranking = None
    terms = office.parts.directory.terms(*TENANT)
    first = await office.story.saga.create(office.story.draft("a"), terms)
    await update(office, account_order=[SECOND])
    terms = office.parts.directory.terms(*TENANT)
    second = await office.story.saga.create(office.story.draft("b"), terms)
    assert [p.last_attempt.processor_account_id for p in (first, second)] == [FIRST, SECOND]
