"""A new model replaces a former champion only where it is better on the same payments."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from smartpay_fraud.adapters.bundle_source import source_of
from smartpay_fraud.adapters.model_bundle import ModelBundle, load, seal, write
from smartpay_fraud.domain.features import DAY_MS
from smartpay_fraud.training import champion, fitting, payments_world
from smartpay_fraud.training.champion import LEARNED_UNTIL, IncomparableError, JudgedWeek
from smartpay_fraud.training.fitting import Split
from smartpay_fraud.training.gate import Ruling
from smartpay_fraud.training.payments_world import PaymentsWorld
from smartpay_fraud.training.protocol import within
from smartpay_fraud.training.replay import Replayed, replay
from smartpay_fraud.training.stream import Stream

WORLD = PaymentsWorld(
    days=28,
    customers=500,
    sales=1,
    batches=1,
    card_tests=25,
    takeovers=20,
    stolen_cards=60,
    compromised_shops=2,
    night_buyers=25,
)
SPLIT = Split(graph=(0, 0), train=(0, 10), calibrate=(10, 12), test=(12, 28))


class Rival(NamedTuple):
    """A model of the small world: its bundle, and what it said in the weeks that judge."""

    bundle: ModelBundle
    weeks: list[JudgedWeek]


class Arena(NamedTuple):
    """The payments that judge, and two models: one learned from the truth, one from lots."""

    stream: Stream
    replayed: Replayed
    able: Rival
    blind: Rival


def rival(stream: Stream, replayed: Replayed, taught: Stream) -> Rival:
    fitted = fitting.fit(taught, replayed, SPLIT, None)
    files = fitting.contents(fitted, taught, replayed, SPLIT)
    training = {"world": {}, LEARNED_UNTIL: champion.learned_until(stream, SPLIT.test[0])}
    manifest = fitting.manifest(fitted, files, training, metrics={})
    weeks = []
    for first in range(*SPLIT.test, 4):
        payments = np.flatnonzero(within(stream.day, (first, first + 4)))
        scores = fitted.margins_of(replayed, payments)
        weeks.append(JudgedWeek(payments, stream.codes["card"][payments], scores))
    return Rival(load({"manifest.json": json.dumps(manifest).encode(), **files}), weeks)


@pytest.fixture(scope="module")
def arena() -> Arena:
    stream = payments_world.generate(WORLD)
    replayed = replay(stream)
    lots = np.random.default_rng(5).permutation(len(stream))
    taught = replace(stream, fraud=stream.fraud[lots], known_ms=stream.known_ms[lots])
    able, blind = rival(stream, replayed, stream), rival(stream, replayed, taught)
    return Arena(stream, replayed, able, blind)


def contest(arena: Arena, former: ModelBundle, new: Rival) -> champion.Contest:
    manifest = {"model_version": new.bundle.version, "training": new.bundle.training}
    return champion.contest(former, manifest, arena.stream, arena.replayed, new.weeks)


def test_a_better_champion_is_kept(arena: Arena) -> None:
    found = contest(arena, arena.able.bundle, arena.blind)
    assert found.ruling is not None
    assert found.ruling.high < 0
    assert len(found.ruling.weeks) == 4
    assert found.keeps(demanded=False)
    assert "keeps the champion" in str(found)


def test_a_worse_champion_is_replaced(arena: Arena) -> None:
    found = contest(arena, arena.blind.bundle, arena.able)
    assert found.ruling is not None
    assert found.ruling.low > 0.3
    assert not found.keeps(demanded=True)
    assert found.told["model_version"] == arena.blind.bundle.version


def test_both_are_judged_by_the_same_payments(arena: Arena) -> None:
    week = arena.able.weeks[0]
    again = champion.margins(arena.able.bundle, arena.replayed, week.payments)
    np.testing.assert_allclose(again, week.scores, atol=1e-5)


def test_a_model_trained_again_is_not_its_own_rival(arena: Arena) -> None:
    found = contest(arena, arena.able.bundle, arena.able)
    assert found.ruling is None
    assert not found.keeps(demanded=True)


@pytest.mark.parametrize(
    ("training", "why"),
    [
        ({"world": {}}, "does not tell until when"),
        ({"world": {}, LEARNED_UNTIL: "2100-01-01T00:00:00+00:00"}, "learned until 2100"),
    ],
)
def test_a_champion_that_may_have_seen_the_judging_weeks_is_not_compared(
    arena: Arena, training: dict[str, object], why: str
) -> None:
    former = replace(arena.able.bundle, training=training)
    found = contest(arena, former, arena.blind)
    assert found.ruling is None
    assert why in str(found)
    assert found.keeps(demanded=True), "whoever asked for a contest wants one"
    assert not found.keeps(demanded=False)


def test_a_champion_of_a_generated_world_has_seen_nobodys_payments(arena: Arena) -> None:
    training = {"world": {}, LEARNED_UNTIL: "2100-01-01T00:00:00+00:00"}
    of_a_table = Rival(replace(arena.blind.bundle, training={"data": "a table"}), arena.blind.weeks)
    found = contest(arena, replace(arena.able.bundle, training=training), of_a_table)
    assert isinstance(found.ruling, Ruling)


def test_a_champion_of_other_features_is_told_apart(tmp_path: Path) -> None:
    files = dict(source_of("").read())
    manifest = json.loads(files.pop("manifest.json"))
    write(tmp_path, seal({**manifest, "schema_hash": "0" * 64}, files), files)
    with pytest.raises(IncomparableError, match="other features"):
        champion.read(tmp_path)
    with pytest.raises(IncomparableError, match="no such folder"):
        champion.read(tmp_path / "absent")


def test_what_a_model_learned_until_is_a_moment_of_its_stream(arena: Arena) -> None:
    told = champion.learned_until(arena.stream, 3)
    assert np.datetime64(told[:19], "ms").astype(int) == arena.stream.first_ms + 3 * DAY_MS
