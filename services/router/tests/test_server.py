from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import grpc
import pytest

from smartpay.router.v1 import router_pb2
from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay.type.v1.instrument_pb2 import Instrument, Processor, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.merchants import Merchant
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    OTHER_ACCOUNT,
    OTHER_MERCHANT,
    FakeClock,
    as_merchant,
    as_service,
    error_info,
)
from smartpay_router.domain.accounts import (
    AddedAccount,
    AddedAccounts,
    AddedFee,
    Directory,
)
from smartpay_router.joining import Brain

if TYPE_CHECKING:
    from smartpay.router.v1.router_pb2_grpc import RouterServiceAsyncStub

FIRST, SECOND = DEMO_ACCOUNTS
ADDED = "pac_d1" + "z" * 24
PAYMENT, OTHER_PAYMENT = "pay_d1" + "p" * 24, "pay_d1" + "q" * 24
PAYMENTS = as_service("payments")
OTHER = as_merchant(OTHER_MERCHANT)


@pytest.fixture
def router(channel: grpc.aio.Channel) -> RouterServiceAsyncStub:
    return RouterServiceStub(channel)


def ask(
    tokens: Mapping[str, str] | None = None,
    *,
    amount: int = 2500,
    currency: str = "USD",
    payment: str = "",
    decision: str = "",
) -> router_pb2.DecideRequest:
    if tokens is None:
        tokens = dict.fromkeys(DEMO_ACCOUNTS, "pm_card_visa")
    return router_pb2.DecideRequest(
        amount=Money(minor_units=amount, currency_code=currency),
        instrument=Instrument(
            tokens=[ProcessorToken(processor_account_id=a, token=t) for a, t in tokens.items()]
        ),
        payment_id=payment,
        decision_id=decision,
        risk=0.03,
    )


def outcome(
    decision_id: str,
    told: router_pb2.Outcome.ValueType = router_pb2.OUTCOME_DECLINED,
    *,
    account: str = FIRST,
    attempt: int = 0,
) -> router_pb2.RecordOutcomeRequest:
    return router_pb2.RecordOutcomeRequest(
        decision_id=decision_id,
        attempt_index=attempt,
        processor_account_id=account,
        outcome=told,
    )


async def test_a_merchant_gets_its_accounts_ranked_with_reasons(
    router: RouterServiceAsyncStub,
) -> None:
    decision = (await router.Decide(ask(), metadata=as_merchant())).decision
    assert [r.processor_account_id for r in decision.ranking] == [FIRST, SECOND]
    first = decision.ranking[0]
    assert first.processor == Processor.PROCESSOR_STRIPE
    assert first.expected_fee == Money(minor_units=103, currency_code="USD")
    assert first.expected_success == pytest.approx(0.9)
    assert first.propensity == 1
    assert 1 <= len(first.reasons) <= 4
    assert all(reason.endswith(".") for reason in first.reasons)
    assert decision.policy_version.startswith("linucb-")
    assert decision.context_schema == "charge-2"
    assert decision.served_by == router_pb2.Decision.SERVED_BY_LIVE
    assert decision.routing_policy_version == 1
    assert decision.outcome_due_time.seconds - decision.create_time.seconds == 86_400
    assert first.breaker_state == router_pb2.BREAKER_STATE_CLOSED
    assert 0 < first.expected_value < first.score <= first.upper_bound <= 1
    assert first.width > 0
    assert decision.expire_time.seconds - decision.create_time.seconds == 900
    assert decision.payment_id == ""


async def test_an_account_that_was_added_is_ranked_with_its_own_fee_from_then_on(
    router: RouterServiceAsyncStub, directory: Directory
) -> None:
    tokens = {FIRST: "pm_card_visa", ADDED: "pm_card_visa"}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await router.Decide(ask(tokens), metadata=as_merchant())
    assert error_info(refused.value)["reason"] == "ACCOUNT_UNKNOWN"

    def told(sequence: int, *, enabled: bool) -> AddedAccounts:
        account = AddedAccount(ADDED, "stripe", {"USD": AddedFee(100, 10)}, enabled)
        merchant = DEMO_MERCHANT
        return AddedAccounts(merchant.merchant_id, merchant.livemode, sequence, (account,))

    directory.learn(told(2, enabled=True))
    directory.learn(told(1, enabled=False))
    decision = (await router.Decide(ask(tokens), metadata=as_merchant())).decision
    fees = {r.processor_account_id: r.expected_fee.minor_units for r in decision.ranking}
    assert fees == {FIRST: 103, ADDED: 35}

    directory.learn(told(3, enabled=False))
    decision = (await router.Decide(ask(tokens), metadata=as_merchant())).decision
    assert [r.processor_account_id for r in decision.ranking] == [FIRST]
    excluded = {e.processor_account_id: e.code for e in decision.excluded}
    assert excluded[ADDED] == "ACCOUNT_DISABLED"


async def test_a_decision_can_be_read_again_but_not_by_another_merchant(
    router: RouterServiceAsyncStub,
) -> None:
    decision = (await router.Decide(ask(), metadata=as_merchant())).decision
    request = router_pb2.GetDecisionRequest(decision_id=decision.decision_id)
    assert (await router.GetDecision(request, metadata=as_merchant())).decision == decision
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.GetDecision(request, metadata=OTHER)
    assert error_info(caught.value)["code"] == "NOT_FOUND"
    assert error_info(caught.value)["reason"] == "DECISION_NOT_FOUND"


@pytest.mark.parametrize("field", ["payment_id", "decision_id"])
async def test_ids_from_outside_are_refused_by_field(
    router: RouterServiceAsyncStub, field: str
) -> None:
    request = ask(payment=PAYMENT) if field == "payment_id" else ask(decision="dec_d1" + "1" * 24)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(request, metadata=as_merchant())
    info = error_info(caught.value)
    assert (info["code"], info["reason"], info["field"]) == (
        "INVALID_ARGUMENT",
        "FIELD_INVALID",
        field,
    )
    assert info["remedy"]


async def test_a_service_that_names_a_decision_must_name_its_payment(
    router: RouterServiceAsyncStub,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(ask(decision="dec_d1" + "1" * 24), metadata=PAYMENTS)
    assert error_info(caught.value)["field"] == "payment_id"


async def test_a_repeated_payment_gets_the_same_decision_even_when_more_was_learned(
    router: RouterServiceAsyncStub, clock: FakeClock
) -> None:
    first = await router.Decide(ask(payment=PAYMENT), metadata=PAYMENTS)
    outside = (await router.Decide(ask(), metadata=as_merchant())).decision
    await router.RecordOutcome(outcome(outside.decision_id), metadata=as_merchant())
    clock.advance(hours=3)
    again = ask(payment=PAYMENT)
    again.risk = 0.9  # advice, not a term
    assert await router.Decide(again, metadata=PAYMENTS) == first
    assert first.decision.payment_id == PAYMENT


async def test_of_racing_repeats_one_decision_stands_and_is_waited_for_once(
    router: RouterServiceAsyncStub, brain: Brain
) -> None:
    racing = [router.Decide(ask(payment=PAYMENT), metadata=PAYMENTS) for _ in range(8)]
    answered = [(await call).decision for call in racing]
    assert all(decision == answered[0] for decision in answered)
    assert brain.learning.counts.waiting == 1


async def test_a_refused_repeat_is_not_waited_for(
    router: RouterServiceAsyncStub, brain: Brain
) -> None:
    await router.Decide(ask(payment=PAYMENT), metadata=PAYMENTS)
    with pytest.raises(grpc.aio.AioRpcError):
        await router.Decide(ask(payment=PAYMENT, amount=2501), metadata=PAYMENTS)
    assert brain.learning.counts.waiting == 1


async def test_a_repeated_payment_with_other_input_is_refused(
    router: RouterServiceAsyncStub,
) -> None:
    await router.Decide(ask(payment=PAYMENT), metadata=PAYMENTS)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(ask(payment=PAYMENT, amount=2501), metadata=PAYMENTS)
    assert error_info(caught.value)["reason"] == "IDEMPOTENCY_KEY_REUSED"


async def test_the_same_payment_id_of_two_merchants_means_two_decisions(
    router: RouterServiceAsyncStub,
) -> None:
    mine = await router.Decide(ask(payment=PAYMENT), metadata=PAYMENTS)
    theirs = await router.Decide(
        ask({OTHER_ACCOUNT: "pm_1"}, payment=PAYMENT),
        metadata=as_service("payments", OTHER_MERCHANT),
    )
    assert mine.decision.decision_id != theirs.decision.decision_id


async def test_payments_binds_the_decision_a_user_got(router: RouterServiceAsyncStub) -> None:
    decision = (await router.Decide(ask(), metadata=as_merchant())).decision
    bind = ask(payment=PAYMENT, decision=decision.decision_id)
    bound = (await router.Decide(bind, metadata=PAYMENTS)).decision
    assert bound.payment_id == PAYMENT
    assert bound.ranking == decision.ranking
    assert (await router.Decide(bind, metadata=PAYMENTS)).decision == bound


async def test_a_used_decision_is_closed_to_another_payment(
    router: RouterServiceAsyncStub,
) -> None:
    decision = (await router.Decide(ask(), metadata=as_merchant())).decision
    await router.Decide(ask(payment=PAYMENT, decision=decision.decision_id), metadata=PAYMENTS)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(
            ask(payment=OTHER_PAYMENT, decision=decision.decision_id), metadata=PAYMENTS
        )
    info = error_info(caught.value)
    assert (info["code"], info["reason"]) == ("FAILED_PRECONDITION", "DECISION_USED")


@pytest.mark.parametrize(
    ("amount", "minutes", "merchant", "reason"),
    [
        (2501, 1, DEMO_MERCHANT, "DECISION_MISMATCH"),
        (2500, 15, DEMO_MERCHANT, "DECISION_EXPIRED"),
        (2500, 1, OTHER_MERCHANT, "DECISION_NOT_FOUND"),
    ],
)
async def test_a_decision_is_bound_only_on_its_terms_in_time_and_for_its_merchant(
    router: RouterServiceAsyncStub,
    clock: FakeClock,
    amount: int,
    minutes: int,
    merchant: Merchant,
    reason: str,
) -> None:
    decision = (await router.Decide(ask(), metadata=as_merchant())).decision
    clock.advance(minutes=minutes)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(
            ask(payment=PAYMENT, decision=decision.decision_id, amount=amount),
            metadata=as_service("payments", merchant),
        )
    info = error_info(caught.value)
    assert (info["reason"], info["field"]) == (reason, "decision_id")
    assert info["remedy"]


async def test_nobody_eligible_is_an_answer_and_a_foreign_account_a_refusal(
    router: RouterServiceAsyncStub,
) -> None:
    nobody = (await router.Decide(ask(currency="SOL"), metadata=as_merchant())).decision
    assert list(nobody.ranking) == []
    assert {e.code for e in nobody.excluded} == {"CURRENCY_UNSUPPORTED"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(ask({OTHER_ACCOUNT: "pm_1"}), metadata=as_merchant())
    info = error_info(caught.value)
    assert (info["code"], info["reason"]) == ("INVALID_ARGUMENT", "ACCOUNT_UNKNOWN")
    assert (info["field"], info["processor_account_id"]) == ("instrument.tokens", OTHER_ACCOUNT)


async def test_two_tokens_of_one_account_are_refused(router: RouterServiceAsyncStub) -> None:
    request = ask()
    request.instrument.tokens.add(processor_account_id=FIRST, token="pm_other")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(request, metadata=as_merchant())
    assert error_info(caught.value)["field"] == "instrument.tokens"


@pytest.mark.parametrize("risk", [math.nan, math.inf, -0.1, 1.1])
async def test_a_risk_that_is_no_probability_is_refused(
    router: RouterServiceAsyncStub, risk: float
) -> None:
    request = ask()
    request.risk = risk
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(request, metadata=as_merchant())
    assert error_info(caught.value)["field"] == "risk"


async def test_outcomes_told_from_outside_are_learned_once(
    router: RouterServiceAsyncStub, brain: Brain, clock: FakeClock
) -> None:
    for _ in range(5):
        decision = (await router.Decide(ask(), metadata=as_merchant())).decision
        told = outcome(decision.decision_id, account=FIRST)
        await router.RecordOutcome(told, metadata=as_merchant())
        await router.RecordOutcome(told, metadata=as_merchant())  # a repeat counts once
    assert brain.knowledge(FIRST, clock().timestamp()).outcomes == 5
    decision = (await router.Decide(ask(), metadata=as_merchant())).decision
    expected = {r.processor_account_id: r.expected_success for r in decision.ranking}
    assert expected[FIRST] < expected[SECOND] < 0.9


async def test_an_outcome_is_refused_once_a_payment_used_the_decision(
    router: RouterServiceAsyncStub,
) -> None:
    decision = (await router.Decide(ask(payment=PAYMENT), metadata=PAYMENTS)).decision
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.RecordOutcome(outcome(decision.decision_id), metadata=as_merchant())
    assert error_info(caught.value)["code"] == "FAILED_PRECONDITION"
    assert error_info(caught.value)["reason"] == "DECISION_USED"


async def test_an_outcome_of_an_account_that_was_not_ranked_is_refused(
    router: RouterServiceAsyncStub,
) -> None:
    decision = (await router.Decide(ask(), metadata=as_merchant())).decision
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.RecordOutcome(
            outcome(decision.decision_id, account=OTHER_ACCOUNT), metadata=as_merchant()
        )
    assert error_info(caught.value)["reason"] == "ACCOUNT_NOT_RANKED"


async def test_a_service_that_is_not_listed_may_not_decide(router: RouterServiceAsyncStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Decide(ask(), metadata=as_service("rewards"))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
