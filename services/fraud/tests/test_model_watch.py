"""A new model is swapped in while calls go on; a bad one is refused and the old one serves."""

import asyncio
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smartpay_chassis.testing import FakeClock
from smartpay_fraud.adapters.bundle_source import BundleError, source_of
from smartpay_fraud.adapters.model_bundle import load, write
from smartpay_fraud.adapters.serving_models import INLINE_ROWS_MAX, LocalModel
from smartpay_fraud.domain.appraisal import Appraiser
from smartpay_fraud.domain.features import FEATURES, FeatureStore
from smartpay_fraud.domain.graph import GRAPH_WIDTH
from smartpay_fraud.domain.memory import LocalMemory
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.scoring import Scoring
from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.domain.watching import Watching
from smartpay_fraud.micro_batcher import MicroBatcher
from smartpay_fraud.model_desk import ModelDesk
from smartpay_fraud.model_watch import ModelWatch

NOON = 1_767_268_800_000
RELOADS = 20
Files = dict[str, bytes]


def a_payment(number: int) -> Transaction:
    return Transaction(
        merchant_id="mer_d1" + "m" * 24,
        livemode=False,
        transaction_id=f"order-{number}",
        amount_minor=5_000 + number,
        currency_code="USD",
        customer_id=f"customer-{number % 7}",
        instrument_id=f"card-{number % 11}",
        device_id=f"device-{number % 5}",
        ip_address="198.51.100.7",
    )


def place(link: Path, name: str, files: Files) -> None:
    """Puts a bundle where the link leads, as an operator does: written aside, swapped at once."""
    folder = link.parent / name
    contents = {n: data for n, data in files.items() if n != "manifest.json"}
    write(folder, json.loads(files["manifest.json"]), contents)
    (link.parent / "next").symlink_to(folder)
    os.replace(link.parent / "next", link)


class Service:
    """The fraud service without its server: a desk and a scoring on one lineup."""

    def __init__(self, desk: ModelDesk, history: object) -> None:
        self.desk = desk
        appraiser = Appraiser(desk.memory, desk.lineup, Rulebook(), desk.watching)
        queue = MicroBatcher(appraiser.appraise, rows_max=64, queue_max=1024)
        self.scoring = Scoring(queue, desk.memory, history, desk.watching)  # type: ignore[arg-type]


@pytest.fixture
def link(tmp_path: Path, files: Files) -> Path:
    place(tmp_path / "current", "first", files)
    return tmp_path / "current"


@pytest.fixture
async def service(link: Path, thread: ThreadPoolExecutor, history: object) -> Service:
    watch = ModelWatch(source_of(str(link)), thread, FakeClock())
    memory = LocalMemory(FeatureStore())
    desk = await ModelDesk.open(memory, watch, None, None, Watching(), FakeClock())
    return Service(desk, history)


async def look(service: Service) -> bool:
    return await service.desk.champions.look(service.desk.crown)


async def test_a_new_bundle_answers_from_then_on(
    service: Service, link: Path, files: Files, graph_files: Files
) -> None:
    before = await service.scoring.score(a_payment(1), NOON)
    place(link, "second", graph_files)
    assert await look(service)
    after = await service.scoring.score(a_payment(2), NOON)
    assert before.model_version == load(files).version
    assert after.model_version == load(graph_files).version
    assert service.desk.champions.reloads.succeeded == 1
    assert await service.scoring.score(a_payment(1), NOON) == before


async def test_nothing_new_loads_nothing(service: Service, link: Path, files: Files) -> None:
    assert not await look(service)
    place(link, "copy", files)
    assert not await look(service)
    assert service.desk.champions.reloads.succeeded == 0
    assert service.desk.champions.reloads.refused == 0


@pytest.mark.parametrize("damage", ["flipped", "gone", "folder gone"])
async def test_a_bad_bundle_is_refused_and_the_old_one_keeps_serving(
    service: Service, link: Path, graph_files: Files, files: Files, damage: str
) -> None:
    place(link, "second", graph_files)
    if damage == "flipped":
        (link / "trees.npz").write_bytes(graph_files["trees.npz"][:-1] + b"?")
    elif damage == "gone":
        (link / "trees.npz").unlink()
    else:
        link.unlink()
    assert not await look(service)
    reloads = service.desk.champions.reloads
    assert (reloads.succeeded, reloads.refused) == (0, 1)
    assert reloads.last_refusal
    assert reloads.last_attempt == FakeClock().now
    assert (await service.scoring.score(a_payment(1), NOON)).model_version == load(files).version
    place(link, "third", graph_files)
    assert await look(service)


async def test_a_bundle_copied_file_by_file_is_taken_once_it_is_whole(
    service: Service, link: Path, graph_files: Files
) -> None:
    folder = link.resolve()
    (folder / "manifest.json").write_bytes(graph_files["manifest.json"])
    assert not await look(service)
    for name, data in graph_files.items():
        (folder / name).write_bytes(data)
    assert await look(service)
    assert service.desk.champion.version == load(graph_files).version


async def test_a_service_does_not_start_on_a_bad_bundle(
    link: Path, thread: ThreadPoolExecutor
) -> None:
    (link / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden\.npz"):
        await ModelWatch(source_of(str(link)), thread, FakeClock()).first()


async def test_twenty_reloads_under_load_fail_no_call(
    service: Service,
    link: Path,
    make_bundle_files: Callable[..., Files],
    history: object,
) -> None:
    bundles = [make_bundle_files(seed, with_graph=seed % 2 == 0) for seed in range(3, 7)]
    numbers = iter(range(1_000_000))
    done = asyncio.Event()
    answered: list[str] = []

    async def call_again_and_again() -> None:
        while not done.is_set():
            assessments = await service.scoring.score_all(
                [a_payment(next(numbers)) for _ in range(3)], NOON
            )
            answered.extend(each.model_version for each in assessments)

    callers = [asyncio.create_task(call_again_and_again()) for _ in range(8)]
    for reload in range(RELOADS):
        place(link, f"bundle-{reload}", bundles[reload % len(bundles)])
        assert await look(service)
    done.set()
    await asyncio.gather(*callers)
    assert service.desk.champions.reloads.succeeded == RELOADS
    assert service.desk.champions.reloads.refused == 0
    assert set(answered) >= {load(files).version for files in bundles}
    assert len(answered) == len(history.assessments)  # type: ignore[attr-defined]


async def test_a_batch_under_way_finishes_with_the_model_it_began_with(
    service: Service, graph_files: Files, thread: ThreadPoolExecutor, files: Files
) -> None:
    batch = asyncio.create_task(
        service.scoring.score_all([a_payment(n) for n in range(INLINE_ROWS_MAX + 1)], NOON)
    )
    for _ in range(3):  # until the batch is in the thread
        await asyncio.sleep(0)
    service.desk.crown(LocalModel(load(graph_files), thread, FakeClock().now))
    assert {each.model_version for each in await batch} == {load(files).version}


async def test_a_retry_after_a_swap_is_scored_by_the_new_model_and_counts_once(
    service: Service, graph_files: Files, thread: ThreadPoolExecutor, history: object
) -> None:
    history.failing = True  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="disk full"):
        await service.scoring.score(a_payment(1), NOON)
    history.failing = False  # type: ignore[attr-defined]
    service.desk.crown(LocalModel(load(graph_files), thread, FakeClock().now))
    again = await service.scoring.score(a_payment(1), NOON + 60_000)
    assert again.scored_ms == NOON
    assert again.model_version == load(graph_files).version
    counted = replace(a_payment(2), customer_id="customer-1")
    (sighting,) = await service.desk.memory.observe([(counted, NOON + 120_000)])
    assert sighting.view.row[FEATURES.index("customer_count_1h")] == 1


async def test_a_large_batch_scores_in_the_thread_as_it_would_on_the_loop(
    files: Files, thread: ThreadPoolExecutor
) -> None:
    model = LocalModel(load(files), thread, FakeClock().now)
    rng = np.random.default_rng(1)
    rows = rng.normal(3, 2, (INLINE_ROWS_MAX + 1, len(FEATURES))).astype(np.float32)
    graph = np.zeros((len(rows), GRAPH_WIDTH), np.float32)
    margins, stack = await model.infer(rows, graph)
    alone = [(await model.infer(rows[n : n + 1], graph[n : n + 1]))[0][0] for n in range(len(rows))]
    assert margins == pytest.approx(alone, abs=1e-6)
    shares = await model.explain(stack)
    assert shares.sum(axis=1) + model.bundle.attribution.expected == pytest.approx(
        margins, abs=1e-5
    )


class Flaky:
    """A place that tells of a bundle and can't give it at first, as S3 on a bad day."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.there = False

    def fingerprint(self) -> str:
        return "one"

    def read(self) -> Files:
        if not self.there:
            raise BundleError("FRAUD_MODEL_URI: S3 does not give the object")
        return self.files


async def test_a_place_that_fails_for_a_while_is_asked_again_and_told_of_once(
    files: Files, thread: ThreadPoolExecutor
) -> None:
    source = Flaky(files)
    seated: list[LocalModel] = []
    watch = ModelWatch(source, thread, FakeClock())
    for _ in range(3):
        assert not await watch.look(seated.append)
    source.there = True
    assert await watch.look(seated.append)
    assert not await watch.look(seated.append)
    assert [model.version for model in seated] == [load(files).version]
    assert (watch.reloads.succeeded, watch.reloads.refused) == (1, 1)
