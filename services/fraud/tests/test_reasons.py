"""Rules decide first, verdicts follow the costs, and every reason can be read by a person."""

import numpy as np
import pytest

from smartpay_fraud.domain.features import FEATURE_INDEX, FEATURES, Vector
from smartpay_fraud.domain.reasons import REASON_CODES, REASONS_MAX, model_reasons
from smartpay_fraud.domain.rules import RULES, Rule, broken_rules
from smartpay_fraud.domain.verdict import Calibration, Costs, Verdict


def a_row(**values: float) -> Vector:
    row = np.zeros(len(FEATURES), np.float32)
    for name, value in values.items():
        row[FEATURE_INDEX[name]] = value
    return row


def contributions(**values: float) -> np.ndarray:
    return a_row(**values).astype(np.float64)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_blocks_from_its_limit_on(rule: Rule) -> None:
    assert not broken_rules(a_row(**{rule.feature: rule.limit - 1}))
    ((broken, message),) = broken_rules(a_row(**{rule.feature: rule.limit}))
    assert broken is rule
    assert str(rule.limit) in message


def test_a_missing_input_breaks_no_rule() -> None:
    assert not broken_rules(np.full(len(FEATURES), np.nan, np.float32))


@pytest.mark.parametrize(
    ("probability", "cents", "verdict"),
    [
        (0.001, 15_000, Verdict.ALLOW),
        (0.10, 1_000, Verdict.ALLOW),
        (0.10, 90_000, Verdict.REVIEW),
        (0.90, 90_000, Verdict.BLOCK),
        (0.99, 150, Verdict.BLOCK),
    ],
)
def test_the_verdict_is_what_costs_least(probability: float, cents: int, verdict: Verdict) -> None:
    assert Costs().verdict(probability, cents) is verdict


def test_more_risk_never_gets_a_milder_verdict() -> None:
    order = [Verdict.ALLOW, Verdict.REVIEW, Verdict.BLOCK]
    for cents in (1, 500, 5_000, 50_000, 5_000_000):
        ranks = [order.index(Costs().verdict(p / 200, cents)) for p in range(201)]
        assert ranks == sorted(ranks)


def test_a_calibrated_probability_grows_with_the_margin_and_stays_within_bounds() -> None:
    calibration = Calibration(slope=1.1, intercept=0.2)
    margins = [-1e9, -5.0, 0.0, 5.0, 1e9]
    probabilities = [calibration.probability(margin) for margin in margins]
    assert probabilities == sorted(probabilities)
    assert 0 <= probabilities[0] < 1e-12
    assert 1 - 1e-12 < probabilities[-1] <= 1


def test_features_of_one_code_are_one_reason_told_by_the_strongest() -> None:
    row = a_row(device_cards_10m=4, device_cards_1h=5, amount=np.log1p(900))
    reasons = model_reasons(
        row, contributions(device_cards_10m=0.5, device_cards_1h=1.0, amount=0.7)
    )
    assert [r.code for r in reasons] == ["CARD_TESTING", "AMOUNT_HIGH"]
    assert [r.contribution for r in reasons] == pytest.approx([1.5, 0.7])
    assert reasons[0].message == "5 different cards were used on this device within 1 hour."
    assert reasons[1].message == "The amount is about 900 USD."


def test_what_lowered_the_score_or_is_unknown_or_hardly_counts_is_no_reason() -> None:
    row = a_row(amount=1.0, device_age=np.nan, hour=3.0)
    assert not model_reasons(row, contributions(amount=-1.0, device_age=2.0, hour=0.04))


def test_at_most_four_reasons_strongest_first() -> None:
    row = a_row()
    given = np.arange(1.0, len(FEATURES) + 1)
    reasons = model_reasons(row, given)
    assert len(reasons) == REASONS_MAX
    assert [r.contribution for r in reasons] == sorted(
        (r.contribution for r in reasons), reverse=True
    )


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("figure", [0.0, 1.0, 7.5])
def test_every_feature_can_be_put_into_a_sentence(name: str, figure: float) -> None:
    (reason,) = model_reasons(a_row(**{name: figure}), contributions(**{name: 1.0}))
    assert reason.code in REASON_CODES
    assert reason.message.endswith(".")
    assert "{" not in reason.message
