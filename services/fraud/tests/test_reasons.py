"""Verdicts follow the costs, and every reason can be read by a person."""

import numpy as np
import pytest

from smartpay_fraud.domain.features import FEATURE_INDEX, FEATURES, Vector
from smartpay_fraud.domain.reasons import REASON_CODES, REASONS_MAX, model_reasons
from smartpay_fraud.domain.verdict import Calibration, Costs, Verdict


def a_row(**values: float) -> Vector:
    row = np.zeros(len(FEATURES), np.float32)
    for name, value in values.items():
        row[FEATURE_INDEX[name]] = value
    return row


def contributions(**values: float) -> np.ndarray:
    return a_row(**values).astype(np.float64)


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


def test_the_codes_are_a_contract() -> None:
    assert REASON_CODES == (
        "AMOUNT_HIGH",
        "AMOUNT_UNUSUAL",
        "CARD_TESTING",
        "CATEGORY_RISK",
        "COUNTRY_UNUSUAL",
        "DECLINES",
        "GRAPH_NEIGHBOURS",
        "HOUR_UNUSUAL",
        "KNOWN_FRAUD",
        "MERCHANT_UNDER_ATTACK",
        "NEW_CARD",
        "NEW_CUSTOMER",
        "NEW_DEVICE",
        "NEW_MERCHANT",
        "NEW_NETWORK",
        "TERMINAL_COMPROMISED",
        "VELOCITY_CARD",
        "VELOCITY_CUSTOMER",
        "VELOCITY_DEVICE",
        "VELOCITY_NETWORK",
    )


def test_a_reason_carries_the_plain_figures_that_raised_it() -> None:
    row = a_row(
        terminal_fraud_share_7d=0.25,
        terminal_last_fraud_age=np.log1p(7_200),
        terminal_frauds_7d=3,
        terminal_known_7d=12,
    )
    added = contributions(
        terminal_fraud_share_7d=1.0,
        terminal_last_fraud_age=0.4,
        terminal_frauds_7d=0.2,
        terminal_known_7d=-0.3,
    )
    (reason,) = model_reasons(row, added)
    assert reason.code == "TERMINAL_COMPROMISED"
    assert reason.contribution == pytest.approx(1.3)
    assert reason.message == "25 % of this terminal's payments settled within 7 days were fraud."
    assert list(reason.values.items()) == [
        ("terminal_fraud_share_7d", 0.25),
        ("terminal_last_fraud_age", pytest.approx(7_200, rel=1e-5)),
        ("terminal_frauds_7d", 3),
    ]


def test_what_the_graph_adds_is_one_reason() -> None:
    stack = np.concatenate([a_row(amount=1.0), np.full(17, 2.5, np.float32)])
    added = np.concatenate([contributions(amount=0.3), np.full(17, 0.1)])
    graph, amount = model_reasons(stack, added)
    assert (graph.code, amount.code) == ("GRAPH_NEIGHBOURS", "AMOUNT_HIGH")
    assert graph.contribution == pytest.approx(1.7)
    assert graph.values == {"graph_log_odds": 2.5}
    assert amount.values == {"amount": pytest.approx(np.expm1(1.0), rel=1e-6)}
