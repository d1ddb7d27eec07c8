"""What a merchant sees of a score: fair to newcomers, hard on testers, once per transaction."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_fraud.adapters.model_bundle import ModelBundle
from smartpay_fraud.domain.assessment import Assessment, Claim, Finding
from smartpay_fraud.domain.features import DAY_MS, HOUR_MS
from smartpay_fraud.domain.scoring import History, Scoring
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

MIDNIGHT = 1_767_225_600_000  # 2026-01-01 00:00 UTC
NOON = MIDNIGHT + 12 * HOUR_MS
MINUTE_MS = 60_000
LOW = 0.02


def a_payment(number: int, **changes: object) -> Transaction:
    """A plain payment of a customer nobody has seen."""
    payment = Transaction(
        merchant_id="mer_d1" + "m" * 24,
        livemode=False,
        transaction_id=f"order-{number}",
        amount_minor=5_000,
        currency_code="USD",
        customer_id=f"customer-{number}",
        instrument_id=f"card-{number}",
        device_id=f"device-{number}",
        ip_address=f"198.51.{number // 250}.{number % 250}",
    )
    return replace(payment, **changes)  # type: ignore[arg-type]  # names are checked when it runs


def codes(assessment: Assessment) -> list[str]:
    return [reason.code for reason in assessment.reasons]


# Fair to newcomers.


@pytest.mark.parametrize("hour", range(24))
async def test_a_first_payment_of_a_newcomer_is_allowed_at_any_hour(
    make_scoring: Callable[[History], Scoring],
    history: History,
    hour: int,
) -> None:
    for amount in (1_000, 2_500, 5_000, 9_900, 15_000, 20_000):
        cold = make_scoring(type(history)())
        assessment = await cold.score(
            a_payment(amount, amount_minor=amount), MIDNIGHT + hour * HOUR_MS
        )
        assert assessment.verdict is Verdict.ALLOW
        assert assessment.score < LOW


@pytest.mark.parametrize("missing", ["customer_id", "instrument_id", "device_id", "ip_address"])
async def test_a_missing_input_alone_raises_no_score_by_much(
    make_scoring: Callable[[History], Scoring], history: History, missing: str
) -> None:
    for hour in range(24):
        cold = make_scoring(type(history)())
        payment = a_payment(1, **{missing: ""})
        assessment = await cold.score(payment, MIDNIGHT + hour * HOUR_MS)
        assert assessment.verdict is Verdict.ALLOW
        assert assessment.score < LOW


@pytest.mark.parametrize(
    ("shared", "value_of"),
    [
        ("nothing", lambda number: {}),
        ("four networks", lambda number: {"ip_address": f"198.51.100.{number % 4}"}),
        ("no device, no network", lambda number: {"device_id": "", "ip_address": ""}),
        ("one network, no device", lambda number: {"device_id": "", "ip_address": "8.8.8.8"}),
        (
            "one card token, no device",
            lambda number: {"device_id": "", "instrument_id": "pm_card_visa"},
        ),
        ("local addresses", lambda number: {"ip_address": "127.0.0.1", "device_id": ""}),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
@pytest.mark.parametrize("hour", [3, 12, 22])
async def test_three_hundred_newcomers_in_a_minute_are_served(
    scoring: Scoring, shared: str, value_of: Callable[[int], dict[str, str]], hour: int
) -> None:
    draw = random.Random(hour)
    begin = MIDNIGHT + hour * HOUR_MS
    verdicts: Counter[Verdict] = Counter()
    for number in range(300):
        payment = a_payment(number, amount_minor=draw.randrange(1_000, 20_001), **value_of(number))
        assessment = await scoring.score(payment, begin + number * 200)
        verdicts[assessment.verdict] += 1
    assert verdicts[Verdict.BLOCK] <= 2
    assert verdicts[Verdict.REVIEW] <= 6


async def test_one_customer_paying_three_hundred_times_in_a_minute_is_served(
    scoring: Scoring,
) -> None:
    same = {"customer_id": "c", "instrument_id": "pm_card_visa", "device_id": "", "ip_address": ""}
    blocked = 0
    for number in range(300):
        assessment = await scoring.score(
            a_payment(number, amount_minor=1_999, **same), NOON + number * 200
        )
        blocked += assessment.verdict is not Verdict.ALLOW
    assert blocked <= 2


async def test_a_family_on_one_device_is_allowed(scoring: Scoring) -> None:
    for number in range(3):
        payment = a_payment(number, device_id="tablet", ip_address="198.51.100.9")
        assessment = await scoring.score(payment, NOON + number * HOUR_MS)
        assert assessment.verdict is Verdict.ALLOW


# Hard on card testers.


@pytest.mark.parametrize("customer", ["one", "each", "none"])
async def test_a_card_testing_burst_ends_in_a_block_that_names_it(
    scoring: Scoring, customer: str
) -> None:
    draw = random.Random(1)
    names = {"one": "c", "each": "c{}", "none": ""}
    attacker = {"device_id": "tester", "ip_address": "203.0.113.9"}
    for number in range(6):
        amount = draw.randrange(100, 201)
        given = {**attacker, "customer_id": names[customer].format(number), "amount_minor": amount}
        await scoring.score(a_payment(number, **given), NOON + number * 9_000)
    given = {**attacker, "customer_id": names[customer].format(6), "amount_minor": 90_000}
    last = await scoring.score(a_payment(6, **given), NOON + MINUTE_MS)
    assert last.verdict is Verdict.BLOCK
    assert last.score > LOW  # the rule decides; it does not forge the score
    assert last.reasons[0].code == "RULE_CARDS_ON_DEVICE"
    assert last.reasons[0].message.startswith("7 different cards")
    assert last.reasons[0].contribution == 0
    assert "CARD_TESTING" in codes(last)


@pytest.mark.parametrize("network", ["203.0.113.9", "198.51.100.1", ""])
async def test_newcomers_after_an_attack_are_served_even_on_the_attackers_network(
    scoring: Scoring, network: str
) -> None:
    for number in range(8):
        payment = a_payment(number, amount_minor=150, device_id="tester", ip_address="203.0.113.9")
        await scoring.score(payment, NOON + number * 5_000)
    for number in range(100, 130):
        payment = a_payment(number, ip_address=network, amount_minor=1_000 + 150 * (number - 100))
        assessment = await scoring.score(payment, NOON + MINUTE_MS + number * 100)
        assert assessment.verdict is Verdict.ALLOW


async def test_the_model_alone_sees_the_burst_before_the_rule_does(scoring: Scoring) -> None:
    verdicts = []
    for number in range(5):
        payment = a_payment(
            number, amount_minor=150, customer_id="", device_id="d", ip_address="203.0.113.9"
        )
        verdicts.append((await scoring.score(payment, NOON + number * 9_000)).verdict)
    assert Verdict.BLOCK in verdicts


@pytest.mark.parametrize("amount_minor", [220_000, 500_000])
async def test_a_strangers_very_high_amount_is_reviewed_where_nothing_is_known(
    make_scoring: Callable[[History], Scoring], history: History, amount_minor: int
) -> None:
    usual, high = [
        await make_scoring(type(history)()).score(a_payment(1, amount_minor=amount), NOON)
        for amount in (5_000, amount_minor)
    ]
    assert high.verdict is Verdict.REVIEW
    assert "AMOUNT_HIGH" in codes(high)
    assert high.score > 10 * usual.score


async def test_a_strangers_very_high_amount_is_blocked_where_others_pay_little(
    scoring: Scoring,
) -> None:
    cents = np.random.default_rng(1).lognormal(np.log(5_000), 0.65, 300).astype(int)
    regulars = [
        (
            a_payment(
                number,
                amount_minor=int(amount),
                customer_id=f"regular-{number % 150}",
                instrument_id=f"card-{number % 150}",
                device_id=f"phone-{number % 150}",
                ip_address=f"198.51.100.{number % 150}",
            ),
            NOON - (300 - number) * 2 * HOUR_MS,
        )
        for number, amount in enumerate(cents)
    ]
    for payment, at_ms in regulars:
        await scoring.score(payment, at_ms)
    usual, high = [
        await scoring.score(
            a_payment(number, amount_minor=amount, device_id=f"d-{number}", ip_address=address),
            NOON,
        )
        for number, amount, address in (
            (1_001, 6_000, "203.0.113.7"),
            (1_002, 220_000, "203.0.114.7"),
        )
    ]
    assert (usual.verdict, high.verdict) == (Verdict.ALLOW, Verdict.BLOCK)


async def test_declines_on_a_device_raise_the_next_score(
    make_scoring: Callable[[History], Scoring], history: History
) -> None:
    scores = []
    for declined in (False, True):
        scoring = make_scoring(type(history)())
        for number in range(3):
            payment = a_payment(number, device_id="d", amount_minor=300, ip_address="8.8.8.8")
            await scoring.score(payment, NOON + number * 10_000)
            if declined:
                claim = Claim(payment.key, "decline:0", Finding.DECLINED, NOON, NOON + 1)
                await scoring.learn([claim], None)
        last = a_payment(9, device_id="d", ip_address="8.8.8.8")
        scores.append((await scoring.score(last, NOON + MINUTE_MS)).score)
    assert scores[1] > scores[0]


# Once per transaction.


async def test_a_repeated_transaction_gets_the_first_answer_and_counts_once(
    scoring: Scoring, make_scoring: Callable[[History], Scoring], history: History
) -> None:
    first = await scoring.score(a_payment(1), NOON)
    for later in (1, HOUR_MS, DAY_MS):
        assert await scoring.score(a_payment(1), NOON + later) == first
    once = make_scoring(type(history)())
    await once.score(a_payment(1), NOON)
    probe = a_payment(2, device_id="device-1", instrument_id="card-1", customer_id="customer-1")
    later = NOON + 2 * DAY_MS
    assert await scoring.score(probe, later) == await once.score(probe, later)


@pytest.mark.parametrize(
    "change",
    [
        {"amount_minor": 5_001},
        {"currency_code": "EUR"},
        {"customer_id": ""},
        {"device_id": "other"},
        {"ip_address": "8.8.4.4"},
        {"instrument_id": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_other_input_under_the_same_id_is_refused(
    scoring: Scoring, change: dict[str, object]
) -> None:
    await scoring.score(a_payment(1), NOON)
    with pytest.raises(Refusal) as refused:
        await scoring.score(a_payment(1, **change), NOON)
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert refused.value.field == "transaction_id"


async def test_the_same_id_of_another_merchant_or_mode_is_another_transaction(
    scoring: Scoring,
) -> None:
    await scoring.score(a_payment(1), NOON)
    for other in ({"merchant_id": "mer_d1" + "n" * 24}, {"livemode": True}):
        assessment = await scoring.score(a_payment(1, amount_minor=7_000, **other), NOON)
        assert assessment.transaction.amount_minor == 7_000


async def test_racing_duplicates_share_one_answer_and_count_once(
    scoring: Scoring, make_scoring: Callable[[History], Scoring], history: History
) -> None:
    answers = await asyncio.gather(*(scoring.score(a_payment(1), NOON + n) for n in range(20)))
    assert len(set(map(id, answers))) == 1
    probe = await scoring.score(a_payment(2, customer_id="customer-1"), NOON + HOUR_MS)
    alone = make_scoring(type(history)())
    await alone.score(a_payment(1), NOON)
    expected = await alone.score(a_payment(2, customer_id="customer-1"), NOON + HOUR_MS)
    assert probe.score == expected.score


async def test_a_retry_after_a_failed_store_counts_nothing_twice(
    make_scoring: Callable[[History], Scoring], history: History
) -> None:
    scoring, undisturbed = make_scoring(history), make_scoring(type(history)())
    history.failing = True  # type: ignore[attr-defined]  # the double's switch
    with pytest.raises(OSError, match="disk full"):
        await scoring.score(a_payment(1), NOON)
    history.failing = False  # type: ignore[attr-defined]
    retried = await scoring.score(a_payment(1), NOON + MINUTE_MS)
    assert retried == await undisturbed.score(a_payment(1), NOON)
    probe = a_payment(2, customer_id="customer-1")
    assert await scoring.score(probe, NOON + HOUR_MS) == await undisturbed.score(
        probe, NOON + HOUR_MS
    )


async def test_a_caller_that_goes_away_leaves_no_second_count(scoring: Scoring) -> None:
    call = asyncio.create_task(scoring.score(a_payment(1), NOON))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    again = await scoring.score(a_payment(1), NOON + MINUTE_MS)
    assert again.scored_ms == NOON


async def test_a_failing_first_of_racing_duplicates_leaves_the_others_to_try_themselves(
    scoring: Scoring, history: History
) -> None:
    history.failing = True  # type: ignore[attr-defined]
    hasty = asyncio.create_task(scoring.score(a_payment(1), NOON))
    patient = asyncio.create_task(scoring.score(a_payment(1), NOON))
    with pytest.raises(OSError, match="disk full"):
        await hasty
    history.failing = False  # type: ignore[attr-defined]
    assert (await patient).scored_ms == NOON


async def test_batches_that_share_transactions_in_any_order_all_get_the_same_answers(
    scoring: Scoring, history: History
) -> None:
    orders = [[1, 2, 3, 4], [4, 3, 2, 1], [2, 5, 1], [3], [1, 1, 3]]
    answers = await asyncio.gather(
        *(scoring.score_all([a_payment(n) for n in numbers], NOON) for numbers in orders)
    )
    for numbers, assessments in zip(orders, answers, strict=True):
        assert [a.transaction for a in assessments] == [a_payment(n) for n in numbers]
    assert len({id(a) for assessments in answers for a in assessments}) == 5


async def test_other_input_in_the_same_batch_is_refused(scoring: Scoring) -> None:
    with pytest.raises(Refusal) as refused:
        await scoring.score_all([a_payment(1), a_payment(1, amount_minor=1)], NOON)
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_an_overloaded_queue_refuses_and_counts_nothing(
    bundle: ModelBundle, history: History, make_scoring_on: Callable[..., Scoring]
) -> None:
    scoring = make_scoring_on(bundle, history, rows_max=2, queue_max=2)
    results = await asyncio.gather(
        *(scoring.score(a_payment(n, customer_id="c"), NOON) for n in range(4)),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Refusal)]
    assert [refusal.kind for refusal in refused] == [Kind.RESOURCE_EXHAUSTED] * 2
    repeated = await scoring.score(a_payment(3, customer_id="c"), NOON + 1)
    assert repeated.scored_ms == NOON + 1


async def test_a_call_whose_deadline_has_passed_is_refused_and_counts_nothing(
    scoring: Scoring,
) -> None:
    with pytest.raises(Refusal) as refused:
        await scoring.score(a_payment(1), NOON, expires_at=0.0)
    assert refused.value.kind is Kind.DEADLINE_EXCEEDED
    assert (await scoring.score(a_payment(1), NOON + 1)).scored_ms == NOON + 1


async def test_a_batch_is_stored_in_one_write(scoring: Scoring, history: History) -> None:
    await scoring.score_all([a_payment(n) for n in range(128)], NOON)
    assert history.writes == 1  # type: ignore[attr-defined]  # the double's own count


async def test_a_batch_scores_as_one_after_the_other_would(
    make_scoring: Callable[[History], Scoring], history: History
) -> None:
    numbers = [*range(20), 3, 7, 3]
    payments = [a_payment(n, amount_minor=2_000 + n, device_id=f"device-{n % 3}") for n in numbers]
    batch = await make_scoring(history).score_all(payments, NOON)
    single = make_scoring(type(history)())
    one_by_one = [await single.score(payment, NOON) for payment in payments]
    assert [a.verdict for a in batch] == [a.verdict for a in one_by_one]
    assert [a.score for a in batch] == pytest.approx([a.score for a in one_by_one], abs=1e-6)


# Learning, and remembering across restarts.


async def test_a_fraud_label_raises_the_next_score_of_that_card(scoring: Scoring) -> None:
    await scoring.score(a_payment(1), NOON)
    before = await scoring.score(a_payment(2, instrument_id="card-1"), NOON + DAY_MS)
    for key in (a_payment(1).key, before.transaction.key):
        await scoring.label(key, "recorded", Finding.FRAUD, None, NOON + 2 * DAY_MS)
    after = await scoring.score(a_payment(3, instrument_id="card-1"), NOON + 3 * DAY_MS)
    assert after.score > before.score


async def test_a_label_needs_a_scored_transaction_of_this_merchant(scoring: Scoring) -> None:
    await scoring.score(a_payment(1), NOON)
    foreign = TransactionKey("mer_d1" + "n" * 24, False, "order-1")
    with pytest.raises(Refusal) as refused:
        await scoring.label(foreign, "recorded", Finding.FRAUD, None, NOON)
    assert refused.value.reason == "TRANSACTION_NOT_FOUND"


async def test_a_label_from_the_future_is_refused(scoring: Scoring) -> None:
    await scoring.score(a_payment(1), NOON)
    with pytest.raises(Refusal) as refused:
        await scoring.label(a_payment(1).key, "recorded", Finding.FRAUD, NOON + 2, NOON + 1)
    assert refused.value.field == "known_time"


async def test_a_restart_remembers_what_the_process_knew(
    make_scoring: Callable[[History], Scoring], history: History
) -> None:
    before = make_scoring(history)
    for number in range(12):
        payment = a_payment(
            number, amount_minor=200, device_id="tester", customer_id="", ip_address="8.8.8.8"
        )
        await before.score(payment, NOON + number * 5_000)
        claim = Claim(payment.key, "decline:0", Finding.DECLINED, NOON, NOON + number * 5_000)
        await before.learn([claim], str(number))
    await before.label(a_payment(0).key, "recorded", Finding.FRAUD, None, NOON + HOUR_MS)
    after = make_scoring(history)
    assert await after.remember(NOON - DAY_MS, 1_000) == 25
    probe = a_payment(99, device_id="tester", ip_address="8.8.8.8", instrument_id="card-0")
    later = NOON + 2 * HOUR_MS
    rows = []
    for scoring in (before, after):
        (sighting,) = await scoring._memory.observe([(probe, later)])
        rows.append(sighting.view.row)
    assert rows[1].tolist() == pytest.approx(rows[0].tolist(), nan_ok=True)
    first = await before.score(
        a_payment(3, amount_minor=200, device_id="tester", customer_id="", ip_address="8.8.8.8"),
        later,
    )
    assert first.scored_ms == NOON + 15_000
