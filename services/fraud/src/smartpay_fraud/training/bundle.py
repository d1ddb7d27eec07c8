"""Trains what is served: with the graph where the gate lets it in, without it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.adapters.model_bundle import ModelBundle
from smartpay_fraud.domain.verdict import Verdict
from smartpay_fraud.training import champion, fitting, gate, metrics
from smartpay_fraud.training.champion import LEARNED_UNTIL, Contest, JudgedWeek
from smartpay_fraud.training.fitting import Fitted, Split
from smartpay_fraud.training.gate import Ruling
from smartpay_fraud.training.payments_world import SCENARIOS, PaymentsWorld, generate
from smartpay_fraud.training.protocol import TEST_STARTS, WEEK, Fold, within
from smartpay_fraud.training.replay import Replayed, replay
from smartpay_fraud.training.sage import train_sage
from smartpay_fraud.training.stream import Stream

Scores = NDArray[np.float64]

PAYMENTS_SPLIT = Split(graph=(14, 42), train=(42, 77), calibrate=(77, 84), test=(91, 119))
"""Of the payments world: two weeks pass until there is a past, then four weeks for the graph, five
for the trees, and four for the gate."""


@dataclass(frozen=True)
class Packed:
    """A sealed bundle, not yet written, and its part of the model card (Markdown lines).

    `contest` is what came out against the former champion; None where there was none.
    """

    manifest: dict[str, Any]
    files: dict[str, bytes]
    told: list[str]
    contest: Contest | None = None


def from_payments_world(
    world: PaymentsWorld, former: Path | None = None, split: Split = PAYMENTS_SPLIT
) -> Packed:
    """The packaged bundle, and how it does against the bundle in the folder `former`.

    It learns from the payments world, because a model that learned the published process (every
    payment above 220 is fraud) must not judge real merchants.

    Raises:
        IncomparableError: `former` holds no bundle of these features.
    """
    champion_before = None if former is None else champion.read(former)
    stream = generate(world)
    replayed = replay(stream)
    sage = train_sage(replayed, within(stream.day, split.graph))
    plain, stack = (fitting.fit(stream, replayed, split, graph) for graph in (None, sage))
    tested = np.flatnonzero(within(stream.day, split.test))
    margins = [fitted.margins_of(replayed, tested) for fitted in (plain, stack)]
    weeks, card = _weeks(stream, tested, split), stream.codes["card"][tested]
    ruling = gate.rule(
        [
            gate.Week(stream.fraud[tested][week], card[week], margins[0][week], margins[1][week])
            for week in weeks
        ]
    )
    chosen, margin = (stack, margins[1]) if ruling.accepted else (plain, margins[0])
    measured = _measured(stream, replayed, chosen, margin, tested, split)
    training = {
        "data": "smartpay_fraud.training.payments_world",
        "world": asdict(world),
        "window": _window(split),
    }
    judged = [JudgedWeek(tested[week], card[week], margin[week]) for week in weeks]
    packed = _packed(stream, replayed, chosen, split, ruling, training, measured)
    return _contested(packed, champion_before, stream, replayed, judged)


def from_file(
    stream: Stream,
    replayed: Replayed,
    ruling: Ruling,
    data: str,
    former: ModelBundle | None = None,
    judged: Sequence[JudgedWeek] = (),
) -> Packed:
    """A bundle trained on a table, as late as the protocol's last test week lets it be judged.

    Against the champion before it stands what the same recipe, trained anew before each test week,
    said in the weeks `judged`: the bundle itself was trained while most of them went by.
    """
    fold = Fold(TEST_STARTS[-1])
    split = Split(
        graph=fold.graph,
        train=(fold.long[0], fold.start),
        calibrate=(fold.start, fold.start + WEEK),
        test=fold.test,
    )
    sage = train_sage(replayed, within(stream.day, split.graph)) if ruling.accepted else None
    chosen = fitting.fit(stream, replayed, split, sage)
    tested = np.flatnonzero(within(stream.day, split.test))
    margin = chosen.margins_of(replayed, tested)
    measured = _measured(stream, replayed, chosen, margin, tested, split)
    training = {"data": data, "window": _window(split)}
    packed = _packed(stream, replayed, chosen, split, ruling, training, measured)
    return _contested(packed, former, stream, replayed, judged)


def _contested(
    packed: Packed,
    former: ModelBundle | None,
    stream: Stream,
    replayed: Replayed,
    judged: Sequence[JudgedWeek],
) -> Packed:
    """The bundle with what came out against the former champion, if there is one."""
    if former is None:
        return packed
    contest = champion.contest(former, packed.manifest, stream, replayed, judged)
    if contest.is_with_itself:
        return replace(packed, contest=contest)
    return replace(
        packed,
        manifest={**packed.manifest, "champion": _rounded(contest.told)},
        told=[*packed.told, str(contest), ""],
        contest=contest,
    )


def _packed(
    stream: Stream,
    replayed: Replayed,
    chosen: Fitted,
    split: Split,
    ruling: Ruling,
    training: dict[str, Any],
    measured: dict[str, Any],
) -> Packed:
    files = fitting.contents(chosen, stream, replayed, split)
    training = {
        **training,
        "features_sha256": replayed.fingerprint,
        "split_days": asdict(split),
        LEARNED_UNTIL: champion.learned_until(stream, split.test[0]),
    }
    manifest = fitting.manifest(
        chosen, files, training, metrics=measured["metrics"], gate=_rounded(asdict(ruling))
    )
    return Packed(manifest, files, _told(manifest, measured, ruling, files))


def _weeks(stream: Stream, tested: NDArray[np.int64], split: Split) -> list[NDArray[np.bool_]]:
    day = stream.day[tested]
    return [within(day, (first, first + WEEK)) for first in range(*split.test, WEEK)]


def _measured(
    stream: Stream,
    replayed: Replayed,
    chosen: Fitted,
    margin: Scores,
    tested: NDArray[np.int64],
    split: Split,
) -> dict[str, Any]:
    """What the bundle achieves on the test weeks, and what its verdicts would have done there."""
    fraud, day = stream.fraud[tested], stream.day[tested]
    payer = stream.codes.get("card", stream.customer)[tested]
    # The first column is log(1 + USD); cents decide what a verdict costs.
    amount = replayed.rows[tested, 0].astype(np.float64)
    probability = np.array([chosen.calibration.probability(m) for m in margin.tolist()])
    weeks = []
    for week in _weeks(stream, tested, split):
        told: dict[str, Any] = {
            "first_day": int(day[week][0]),
            "payments": int(week.sum()),
            "frauds": int(fraud[week].sum()),
            "mean_score": float(probability[week].mean()),
        }
        for name, scores in (("model", margin), ("amount_only", amount)):
            told[name] = {
                "average_precision": metrics.average_precision(fraud[week], scores[week]),
                "roc_auc": metrics.roc_auc(fraud[week], scores[week]),
                "card_precision_100": metrics.card_precision(
                    fraud[week], scores[week], payer[week], day[week]
                ),
            }
        weeks.append(_rounded(told))
    verdicts = _verdicts(stream, tested, probability, chosen, amount)
    means = {
        name: round(float(np.mean([week["model"][name] for week in weeks])), 4)
        for name in ("average_precision", "roc_auc", "card_precision_100")
    }
    return {"metrics": {**means, "weeks": weeks, "verdicts": verdicts}}


def _verdicts(
    stream: Stream,
    tested: NDArray[np.int64],
    probability: Scores,
    chosen: Fitted,
    amount: Scores,
) -> dict[str, dict[str, float]]:
    """Which share of each story the verdicts would have let through, shown or stopped."""
    cents = np.maximum(1, np.rint(np.expm1(amount) * 100)).astype(np.int64)
    verdicts = np.array(
        [
            chosen.costs.verdict(p, size).value
            for p, size in zip(probability.tolist(), cents.tolist(), strict=True)
        ]
    )
    if stream.scenario is None:
        stories = {"honest": ~stream.fraud[tested], "fraud": stream.fraud[tested]}
    else:
        scenario = stream.scenario[tested]
        stories = {name: scenario == number for number, name in enumerate(SCENARIOS)}
    return {
        name: {
            verdict.value: round(float((verdicts[of] == verdict.value).mean()), 4)
            for verdict in Verdict
        }
        for name, of in stories.items()
        if of.any()
    }


def _told(
    manifest: dict[str, Any], measured: dict[str, Any], ruling: Ruling, files: dict[str, bytes]
) -> list[str]:
    """The bundle's part of the card."""
    training, told = manifest["training"], measured["metrics"]
    size = sum(map(len, files.values())) / 1e6
    graph = "accepted" if ruling.accepted else "refused"
    return [
        f"## The bundle, {manifest['model_version']}",
        "",
        f"Trained on {training['data']}, {training['window']}; {size:.2f} MB. The gate "
        f"{graph} the graph: average precision {ruling.gain:+.3f} (90 % interval "
        f"{ruling.low:+.3f} to {ruling.high:+.3f}), ahead in {ruling.ahead:.1%} of the draws.",
        "",
        "| test week | payments | frauds | AP (amount alone) | AUC (amount alone) | "
        "CP@100 (amount alone) |",
        "|---|---|---|---|---|---|",
        *(
            f"| day {week['first_day']} | {week['payments']:,} | {week['frauds']:,} | "
            + " | ".join(
                f"{week['model'][name]:.3f} ({week['amount_only'][name]:.3f})"
                for name in ("average_precision", "roc_auc", "card_precision_100")
            )
            + " |"
            for week in told["weeks"]
        ),
        "",
        "| story | allowed | reviewed | blocked |",
        "|---|---|---|---|",
        *(
            f"| {name} | {shares['ALLOW']:.2%} | {shares['REVIEW']:.2%} | {shares['BLOCK']:.2%} |"
            for name, shares in told["verdicts"].items()
        ),
        "",
    ]


def _window(split: Split) -> str:
    return (
        f"graph on days {split.graph[0]} to {split.graph[1] - 1}, trees on "
        f"{split.train[0]} to {split.train[1] - 1}, calibrated on "
        f"{split.calibrate[0]} to {split.calibrate[1] - 1}"
    )


def _rounded(told: dict[str, Any]) -> dict[str, Any]:
    def value(each: object) -> object:
        if isinstance(each, float):
            return round(each, 4)
        if isinstance(each, dict):
            return _rounded(each)
        return [value(one) for one in each] if isinstance(each, list | tuple) else each

    return {name: value(each) for name, each in told.items()}
