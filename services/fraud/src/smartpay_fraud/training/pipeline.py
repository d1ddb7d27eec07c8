"""The whole training from data to bundle: replay, judge, let the gate decide, fit, write.

Without a table the published protocol runs on our generator of the published process, and the
bundle is trained on the generated payments world; with a table both use it. Equal code and data
give equal features on any machine, and equal bundles on one kind of machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from smartpay_fraud.adapters.bundle_source import MANIFEST, Folder
from smartpay_fraud.adapters.model_bundle import load, write
from smartpay_fraud.training import ablation, champion, published_world, transactions_file
from smartpay_fraud.training.ablation import Judged, Model
from smartpay_fraud.training.bundle import (
    Packed,
    from_file,
    from_payments_world,
)
from smartpay_fraud.training.champion import ChampionKeptError, IncomparableError, JudgedWeek
from smartpay_fraud.training.model_card import Card, numbers
from smartpay_fraud.training.payments_world import PaymentsWorld
from smartpay_fraud.training.protocol import (
    TEST_STARTS,
    VALIDATION_STARTS,
    Fold,
    check,
    judged,
    mean,
)
from smartpay_fraud.training.replay import replay
from smartpay_fraud.training.stream import Stream

T = TypeVar("T")

HEADLINE = Model("ours", "strict", True)
"""The model whose figures are the last line, fixed on the validation weeks."""

GAINS = tuple(
    (Model(features, window, False), Model(features, window, True))
    for window in ("strict", "long")
    for features in ("handbook", "ours")
)
"""What the gate compares: each model without the graph and with it; the last pair decides."""

_PACKAGED = Path(__file__).parents[1] / "bundle"
_REFUSED = "-refused"


def run(
    transactions: Path | None,
    out: Path | None,
    validation: bool = False,
    former: Path | None = None,
) -> None:
    """Trains, prints what it does, writes the bundle, and ends with the headline as JSON.

    Args:
        transactions: a table of payments; None: our own generated streams.
        out: where the bundle goes.
        validation: judge on the earlier weeks instead, to choose parameters; nothing is written.
        former: the champion to beat; None: the bundle that would be replaced, if there is one
            and it can be compared.

    Raises:
        TableError: the table can't be read.
        ProtocolError: the protocol can't judge it.
        IncomparableError: `former` was given and can't be compared.
        ChampionKeptError: the gate kept the champion; the new bundle lies beside, as `-refused`.
    """
    begin = time.perf_counter()
    folder = out or (_PACKAGED if transactions is None else Path("fraud-bundle"))
    to_beat = None if validation else _to_beat(former, folder)
    starts = VALIDATION_STARTS if validation else TEST_STARTS
    stream, told = _stream(transactions)
    check(stream)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as beside:
        waiting: Future[Packed] | None = None
        if transactions is None and not validation:
            waiting = beside.submit(from_payments_world, PaymentsWorld(), to_beat)
        judged_days = stream.until(Fold(TEST_STARTS[-1]).test[1])
        replayed = _timed(
            f"replaying {len(judged_days):,} payments through the serving features",
            lambda: replay(judged_days, _bar),
        )
        _say(f"features {replayed.rows.shape}, SHA-256 {replayed.fingerprint}\n")
        weeks = _timed(
            f"judging {len(ablation.MODELS)} models in {len(starts)} weeks",
            lambda: ablation.run(judged_days, replayed, starts, _bar),
        )
        gains = [(f"{b}, {b.window}", ablation.compare(weeks, a, b)) for a, b in GAINS]
        card = Card(told, replayed.fingerprint, weeks, HEADLINE, gains)
        if not validation:
            packed = (
                _timed("waiting for the bundle trained beside", waiting.result)
                if waiting is not None
                else _timed(
                    "training the bundle",
                    lambda: from_file(
                        judged_days,
                        replayed,
                        gains[-1][1],
                        told,
                        None if to_beat is None else champion.read(to_beat),
                        _judged(judged_days, weeks, GAINS[-1][gains[-1][1].accepted]),
                    ),
                )
            )
            card.bundle = packed.told
            kept = packed.contest is not None and packed.contest.keeps(former is not None)
            if kept:
                folder = _beside(folder)
            _write(folder, packed, card, begin)
            if packed.contest is not None:
                _say(f"{packed.contest}\n")
    _say("\n" + _summary(weeks))
    _say(f"\n{time.perf_counter() - begin:.0f} s in all\n")
    _say(json.dumps(numbers(weeks, HEADLINE)) + "\n")
    if not validation and kept:
        raise ChampionKeptError(f"{packed.contest} The new bundle and its card lie in {folder}.")


def _to_beat(former: Path | None, folder: Path) -> Path | None:
    """The folder of the champion to beat; None, with the reason told, where there is none."""
    if former is None and not (folder / MANIFEST).is_file():
        return None
    try:
        champion.read(former or folder)
    except IncomparableError as error:
        if former is not None:
            raise
        _say(f"The bundle to be replaced is not held against the new one: {error}\n")
        return None
    return former or folder


def _judged(stream: Stream, weeks: Sequence[Judged], model: Model) -> list[JudgedWeek]:
    """What a model of the ablation said in each test week."""
    return [
        JudgedWeek(np.flatnonzero(judged(stream, week.fold)), week.payer, week.scores[model])
        for week in weeks
    ]


def _beside(folder: Path) -> Path:
    """Where a refused bundle goes: never into the package."""
    return Path(f"fraud-bundle{_REFUSED}" if folder == _PACKAGED else f"{folder}{_REFUSED}")


def _stream(transactions: Path | None) -> tuple[Stream, str]:
    if transactions is None:
        stream = _timed("generating the published process", published_world.as_stream)
        return (
            stream,
            "Data: our generator of the published process (`training/published_world.py`).",
        )
    reading = _timed(f"reading {transactions.name}", lambda: transactions_file.read(transactions))
    rounded = f", {reading.rounded:,} amounts rounded to minor units" if reading.rounded else ""
    _say(f"{len(reading.stream):,} payments{rounded}\n")
    return (
        reading.stream,
        f"Data: `{transactions.name}`, {len(reading.stream):,} payments{rounded}.",
    )


def _write(folder: Path, packed: Packed, card: Card, begin: float) -> None:
    """Writes the bundle with its card and loads it as the service would."""
    used = sum(os.times()[:4]) / 60
    card.notes = [
        f"Made in {(time.perf_counter() - begin) / 60:.0f} minutes, of which {used:.0f} minutes of "
        f"processor time, on {os.cpu_count()} cores that others may have shared."
    ]
    write(folder, packed.manifest, packed.files)
    (folder / "model-card.md").write_text(card.markdown())
    (folder / "ablation.svg").write_text(card.svg())
    load(Folder(folder, "--out").read())
    size = sum(map(len, packed.files.values()))
    _say(f"\n{packed.manifest['model_version']} written to {folder}: {size / 1000:.0f} kB\n")


def _summary(weeks: Sequence[Judged]) -> str:
    lines = [f"{'model':<34} window   AUC    AP     CP@100"]
    for model in ablation.MODELS:
        figures = mean([week.figures[model] for week in weeks])
        lines.append(
            f"{model!s:<34} {model.window:<8} {figures.auc:.3f}  {figures.ap:.3f}  "
            f"{figures.cp100:.3f}"
        )
    return "\n".join(lines) + "\n"


def _timed(what: str, work: Callable[[], T]) -> T:
    begin = time.perf_counter()
    _say(f"{what} ...")
    result = work()
    _say(f"\r{what}: {time.perf_counter() - begin:.1f} s\n")
    return result


def _bar(share: float) -> None:
    if sys.stdout.isatty():
        _say(f"\r{share:5.0%} ")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
