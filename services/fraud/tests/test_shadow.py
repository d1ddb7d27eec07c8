"""A challenger scores the same payments, is stored beside the answer, and never changes one."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from smartpay_chassis.gauges import Gauges
from smartpay_chassis.testing import FakeClock
from smartpay_fraud.adapters.bundle_source import source_of
from smartpay_fraud.adapters.model_bundle import load, write
from smartpay_fraud.adapters.serving_models import LocalModel
from smartpay_fraud.domain.appraisal import Appraiser
from smartpay_fraud.domain.assessment import Assessment
from smartpay_fraud.domain.features import FeatureStore
from smartpay_fraud.domain.memory import LocalMemory
from smartpay_fraud.domain.models import Inference, Lineup
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.domain.watching import Watching
from smartpay_fraud.model_desk import ModelDesk
from smartpay_fraud.model_watch import ModelWatch

NOON = 1_767_268_800_000
LOADED = datetime(2026, 1, 1, tzinfo=UTC)
Files = dict[str, bytes]


def payments(count: int) -> list[tuple[Transaction, int]]:
    return [
        (
            Transaction(
                merchant_id="mer_d1" + "m" * 24,
                livemode=False,
                transaction_id=f"order-{number}",
                amount_minor=500 * (1 + number % 40),
                currency_code="USD",
                customer_id=f"customer-{number % 3}",
                instrument_id=f"card-{number % 4}",
                device_id=f"device-{number % 5}",
                ip_address="198.51.100.7",
            ),
            NOON + number * 60_000,
        )
        for number in range(count)
    ]


class Broken:
    """A challenger that fails, as a model on trial may."""

    version, weights = "trees-broken", None

    async def infer(self, rows: np.ndarray, graph: np.ndarray) -> Inference:
        raise MemoryError


async def appraised(
    champion: LocalModel, challenger: object, watching: Watching | None = None
) -> list[Assessment]:
    memory = LocalMemory(FeatureStore())
    lineup = Lineup(memory, champion, challenger)  # type: ignore[arg-type]  # some are doubles
    appraiser = Appraiser(memory, lineup, Rulebook(), watching or Watching())
    return [
        assessment
        for first in range(0, 60, 6)
        for assessment in await appraiser.appraise(payments(60)[first : first + 6])
    ]


@pytest.fixture
def make_model(thread: ThreadPoolExecutor) -> Callable[[Files], LocalModel]:
    return lambda files: LocalModel(load(files), thread, LOADED)


def answered(assessments: list[Assessment]) -> list[tuple[object, ...]]:
    return [(a.verdict, a.score, a.reasons, a.model_version) for a in assessments]


@pytest.mark.parametrize("graphs", ["neither", "champion", "challenger", "both"])
async def test_a_challenger_changes_no_answer_and_says_what_it_would_say_alone(
    make_model: Callable[[Files], LocalModel],
    make_bundle_files: Callable[..., Files],
    graphs: str,
) -> None:
    ours = make_model(make_bundle_files(1, with_graph=graphs in ("champion", "both")))
    theirs = make_model(make_bundle_files(2, with_graph=graphs in ("challenger", "both")))
    watching = Watching()
    together = await appraised(ours, theirs, watching)
    alone, on_its_own = await appraised(ours, None), await appraised(theirs, None)
    assert answered(together) == answered(alone)
    shadows = [a.shadow for a in together]
    assert {shadow.model_version for shadow in shadows if shadow} == {theirs.version}
    assert [shadow.probability for shadow in shadows if shadow] == pytest.approx(
        [a.score for a in on_its_own], abs=1e-6
    )
    comparison = watching.comparison
    differences = [b.score - a.score for a, b in zip(alone, on_its_own, strict=True)]
    assert comparison.count == len(together)
    assert comparison.difference_mean == pytest.approx(np.mean(differences), abs=1e-6)
    assert comparison.difference_max == pytest.approx(np.abs(differences).max(), abs=1e-6)


async def test_a_challenger_that_fails_is_counted_and_the_champion_answers(
    make_model: Callable[[Files], LocalModel], files: Files
) -> None:
    ours, watching = make_model(files), Watching()
    assessments = await appraised(ours, Broken(), watching)
    assert answered(assessments) == answered(await appraised(ours, None))
    assert all(a.shadow is None for a in assessments)
    assert watching.comparison.failures == 10
    assert watching.comparison.last_failure == "MemoryError"


async def test_a_new_challenger_is_swapped_in_like_a_champion(
    files: Files,
    make_bundle_files: Callable[..., Files],
    thread: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    def place(name: str, bundle: Files) -> Path:
        contents = {n: data for n, data in bundle.items() if n != "manifest.json"}
        write(tmp_path / name, json.loads(bundle["manifest.json"]), contents)
        return tmp_path / name

    champions = ModelWatch(source_of(str(place("champion", files))), thread, FakeClock())
    shadow = place("shadow", make_bundle_files(8))
    challengers = ModelWatch(source_of(str(shadow)), thread, FakeClock())
    desk = await ModelDesk.open(
        LocalMemory(FeatureStore()), champions, challengers, None, Watching(), FakeClock()
    )
    place("shadow", make_bundle_files(9))
    assert await challengers.look(desk.challenge)
    assert desk.challenger
    assert desk.challenger.version == load(make_bundle_files(9)).version
    assert desk.lineup.champion.version == load(files).version
    await desk.report(Gauges())


async def test_a_challenger_that_can_not_be_loaded_keeps_nobody_from_being_served(
    files: Files,
    make_bundle_files: Callable[..., Files],
    thread: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    def place(name: str, bundle: Files) -> ModelWatch:
        contents = {n: data for n, data in bundle.items() if n != "manifest.json"}
        write(tmp_path / name, json.loads(bundle["manifest.json"]), contents)
        return ModelWatch(source_of(str(tmp_path / name)), thread, FakeClock())

    champions = place("champion", files)
    challengers = place("shadow", {**make_bundle_files(8), "trees.npz": b"?"})
    desk = await ModelDesk.open(
        LocalMemory(FeatureStore()), champions, challengers, None, Watching(), FakeClock()
    )
    assert desk.challenger is None
    assert desk.lineup.challenger is None
    assert challengers.reloads.refused == 1
    place("shadow", make_bundle_files(8))
    assert await challengers.look(desk.challenge)
    assert desk.lineup.challenger is desk.challenger is not None
