"""Tells Prometheus how far payments, scores and outcomes moved from the training."""

from __future__ import annotations

from smartpay_chassis.gauges import Gauges
from smartpay_fraud.domain.drift import DriftReport

MOVED = 0.2
"""A feature is counted as moved from here: half-way between watching and acting, so that a rising
count is seen before the first alert."""


def tell(gauges: Gauges, report: DriftReport) -> None:
    """Replaces the gauges by a report's figures; what is not known yet is not told.

    Which feature moved stands in `GET /fraud/model` and in the log: a series per feature would be
    more than anybody draws.
    """
    features = [feature.stability for feature in report.features]
    moved = float(sum(psi > MOVED for psi in features)) if features else None
    told: tuple[tuple[str, str, float | None], ...] = (
        ("rows", "Latest rows that were compared.", float(report.rows)),
        (
            "feature_psi_max",
            "Stability index of the feature that moved most.",
            max(features, default=None),
        ),
        ("features_moved", f"Features with a stability index above {MOVED}.", moved),
        ("score_psi", "Stability index of the score.", report.score),
        (
            "unknown_entities_share",
            "Share of rows where all are strangers.",
            report.unknown_entities,
        ),
        (
            "labelled_transactions",
            "Scored payments whose outcome is known.",
            float(report.labelled),
        ),
        (
            "calibration_error",
            "Mean distance of scores from the share of frauds.",
            report.calibration_error,
        ),
        (
            "average_precision",
            "Over the payments whose outcome is known.",
            report.average_precision,
        ),
    )
    for name, meaning, value in told:
        gauges.tell(f"smartpay_fraud_drift_{name}", meaning, value)
