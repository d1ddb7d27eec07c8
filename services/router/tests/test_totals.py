from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_router.domain.learner import Arm
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.schema import Schema
from smartpay_router.domain.totals import Sum, Totals, merged

NOW = 1_770_000_000.0
SCHEMA = Schema("test-1", ("intercept", "amount", "risk"), (1.0, 20.0, 20.0))
TUNING = Tuning(memory_seconds=3_600.0)
ARMS = [Arm(f"pac_{i}", f"live/{('stripe', 'solana')[i % 2]}") for i in range(5)]
EXACT = 1e-12

Outcome = tuple[Arm, tuple[float, ...], float, float]


def outcomes(dice: random.Random, count: int, span_seconds: float) -> list[Outcome]:
    """Outcomes of random decisions, in the order in which they happen to come in."""
    return [
        (
            dice.choice(ARMS),
            (1.0, dice.uniform(-2, 2), dice.random()),
            dice.random(),
            NOW + dice.uniform(0, span_seconds),
        )
        for _ in range(count)
    ]


def learned(seen: list[Outcome], owner: str = "one", epoch: int = 0) -> LinUcb:
    learner = LinUcb(SCHEMA, TUNING, owner, epoch)
    for arm, values, reward, at in seen:
        learner.learn(arm, values, reward, at)
    return learner


def distance(ours: Totals, theirs: Totals) -> float:
    """Answers the largest difference of any sum, relative to the largest number of that sum."""
    factor = math.exp((ours.landmark - theirs.landmark) / TUNING.memory_seconds)
    return max(
        _distance(ours.models, theirs.models, factor),
        _distance(ours.accounts, theirs.accounts, factor),
    )


def _distance(ours: Mapping[str, Sum], theirs: Mapping[str, Sum], factor: float) -> float:
    assert {k: s.outcomes for k, s in ours.items()} == {k: s.outcomes for k, s in theirs.items()}
    return max(
        (
            np.abs(ours[key].values * factor - theirs[key].values).max()
            / np.abs(theirs[key].values).max()
            for key in ours
        ),
        default=0.0,
    )


@given(
    seed=st.integers(0, 2**32),
    replicas=st.integers(1, 16),
    # Up to 100 memories: replicas end with landmarks of their own.
    span=st.sampled_from([0.0, 600.0, 36_000.0, 360_000.0]),
)
@settings(max_examples=60, deadline=None)
def test_replicas_know_together_exactly_what_one_learner_would_have_learned(
    seed: int, replicas: int, span: float
) -> None:
    """Whatever replica an outcome came to, in what order, and how often its total was told."""
    dice = random.Random(seed)
    all_of_them = outcomes(dice, 120, span)
    parts = [LinUcb(SCHEMA, TUNING, f"replica-{i}") for i in range(replicas)]
    told = []
    for arm, values, reward, at in dice.sample(all_of_them, len(all_of_them)):
        replica = dice.choice(parts)
        replica.learn(arm, values, reward, at)
        if dice.random() < 0.1:
            told.append(replica.totals())  # an early total, which a later one replaces
    told += [replica.totals() for replica in parts] * 2
    dice.shuffle(told)
    one = learned(sorted(all_of_them, key=lambda outcome: outcome[3]))
    assert distance(merged(told), one.totals()) <= EXACT

    reader, asked = parts[0], (1.0, 0.5, 0.1)
    reader.share(told)
    reader.share(told[::-1])
    present = NOW + span + TUNING.memory_seconds  # so late that both solve anew
    ours, theirs = (x.estimates(ARMS, asked, present) for x in (reader, one))
    assert reader.outcomes == one.outcomes
    assert list(ours.outcomes) == list(theirs.outcomes)
    assert np.allclose(ours.success, theirs.success, rtol=0, atol=1e-10)
    assert np.allclose(ours.width, theirs.width, rtol=0, atol=1e-10)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_merging_some_first_and_the_rest_later_is_merging_all_at_once(seed: int) -> None:
    dice = random.Random(seed)
    parts = [
        learned(outcomes(dice, dice.randrange(1, 20), 100_000.0), f"replica-{i}").totals()
        for i in range(6)
    ]
    left, right = merged(parts[:3], "left"), merged(parts[3:], "right")
    at_once, in_steps = merged(parts), merged([right, left])
    assert distance(in_steps, at_once) <= EXACT
    assert in_steps.revision == at_once.revision
    assert merged(parts[::-1]).encode() == at_once.encode()


def test_what_was_told_survives_the_wire_to_the_bit() -> None:
    total = learned(outcomes(random.Random(1), 200, 1e6), "replica-1", epoch=7).totals()
    data = total.encode()
    read = Totals.decode(data)
    assert read.encode() == data
    assert distance(read, total) == 0
    assert (read.owner, read.epoch, read.revision) == ("replica-1", 7, 200)
    assert (read.schema_key, read.landmark) == (SCHEMA.key, total.landmark)
    assert read.outcomes == 200


def test_a_total_of_nothing_survives_the_wire() -> None:
    data = LinUcb(SCHEMA, Tuning(memory_seconds=math.inf)).totals().encode()
    assert Totals.decode(data).encode() == data


def test_a_total_takes_half_of_what_its_sums_take() -> None:
    schema = Schema("wide", ("intercept", *(f"f{i}" for i in range(33))), (1.0,) * 34)
    learner = LinUcb(schema)
    dice = np.random.default_rng(1)
    rows = dice.normal(size=(300, 34))
    rows[:, 0] = 1.0
    for i, row in enumerate(rows):
        learner.learn(Arm(f"pac_{i % 3}", f"model-{i % 3}"), row, 1.0, NOW)
    assert len(learner.totals().encode()) < 3 * 8 * (34 * 35 // 2 + 34 + 35) + 500


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_refused_and_never_half_read(data: st.DataObject) -> None:
    good = learned(outcomes(random.Random(1), 5, 1e3)).totals().encode()
    place = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "longer"]))
    if kind == "flip":
        bad = bytearray(good)
        bad[place] ^= 1 << data.draw(st.integers(0, 7))
        damaged = bytes(bad)
    elif kind == "cut":
        damaged = good[:place]
    else:
        damaged = good + good[:place] + b"x"
    try:
        read = Totals.decode(damaged)
    except ValueError:
        return
    assert read.encode() == good  # some bits of a packed file mean nothing


def packed(header: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", b"SPT1", len(header)) + zlib.compress(header + body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 an archive",
        packed(b"{}", b""),
        packed(b"[1, 2]", b""),
        packed(b"\xff\xfe", b""),
        packed(b'{"width": -1, "models": [["a", 1]], "accounts": []}', b""),
        packed(b'{"width": 1, "models": [], "accounts": [["a", 1]]}', b"\x00" * 15),
        packed(
            b'{"width": 1, "models": [], "accounts": [["a", 1]]}',
            struct.pack("<2d", 1.0, math.nan),
        ),
        packed(b'{"width": 1, "models": [], "accounts": [["a"]]}', b"\x00" * 16),
    ],
)
def test_bytes_of_another_format_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"total"):
        Totals.decode(data)


def test_a_total_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = learned(outcomes(random.Random(1), 5, 1e3)).totals().encode()
    monkeypatch.setattr("smartpay_router.domain.totals.ENCODED_BYTES_MAX", 100)
    with pytest.raises(ValueError, match="too long"):
        Totals.decode(data)


def test_a_later_life_replaces_all_that_an_earlier_one_told() -> None:
    dice = random.Random(1)
    long_ago = learned(outcomes(dice, 50, 1e3), "replica-1", epoch=1).totals()
    reborn = learned(outcomes(dice, 3, 1e3), "replica-1", epoch=2).totals()
    for told in ([long_ago, reborn], [reborn, long_ago]):
        assert distance(merged(told), reborn) == 0


def test_a_retired_replica_lives_on_in_the_total_of_all_retired_ones() -> None:
    dice = random.Random(1)
    base, dead, alive = (
        learned(outcomes(dice, 20, 1e4), owner).totals() for owner in ("base", "dead", "alive")
    )
    folded = merged([base, dead], owner="base", epoch=base.epoch + 1)
    assert (folded.owner, folded.epoch) == ("base", 1)
    assert distance(merged([folded, alive, base]), merged([base, dead, alive])) <= EXACT


def test_totals_that_mean_something_else_do_not_add_up() -> None:
    total = learned(outcomes(random.Random(1), 3, 1e3)).totals()
    for other in (
        replace(total, owner="other", schema_key="test-2"),
        replace(total, owner="other", memory_seconds=60.0),
    ):
        with pytest.raises(ValueError, match="add up"):
            merged([total, other])
        reader = learned(outcomes(random.Random(2), 3, 1e3), "reader")
        before = reader.estimates(ARMS, (1.0, 0.0, 0.0), NOW).success.tolist()
        with pytest.raises(ValueError, match="schema or memory"):
            reader.share([other])
        assert reader.estimates(ARMS, (1.0, 0.0, 0.0), NOW).success.tolist() == before
    with pytest.raises(ValueError, match="nothing"):
        merged([])


def test_a_replica_passes_over_what_is_told_of_itself() -> None:
    reader = learned(outcomes(random.Random(1), 30, 1e3), "reader")
    own = reader.totals()
    reader.share([own, replace(own, epoch=9)])
    assert reader.outcomes == 30
    assert distance(reader.totals(), own) == 0


def test_what_is_no_longer_told_is_no_longer_known() -> None:
    dice = random.Random(1)
    other = learned(outcomes(dice, 30, 1e3), "other").totals()
    reader, alone = (learned(outcomes(random.Random(2), 30, 1e3), "reader") for _ in range(2))
    reader.share([other])
    assert reader.outcomes == 60
    reader.share([])
    ours, theirs = (x.estimates(ARMS, (1.0, 0.3, 0.2), NOW + 1e3) for x in (reader, alone))
    assert np.allclose(ours.success, theirs.success, atol=1e-3)
    assert list(ours.outcomes) == list(theirs.outcomes)
    assert reader.totals().encode() == alone.totals().encode()


def test_what_others_taught_is_never_told_on() -> None:
    dice = random.Random(1)
    other = learned(outcomes(dice, 30, 1e3), "other").totals()
    reader = learned(outcomes(dice, 30, 1e3), "reader")
    before = reader.totals().encode()
    reader.share([other])
    reader.estimates(ARMS, (1.0, 0.0, 0.0), NOW)
    assert reader.totals().encode() == before


def test_a_learner_resumes_from_its_own_total_as_if_it_had_never_stopped() -> None:
    dice = random.Random(1)
    seen = outcomes(dice, 80, 1e6)
    steady = learned(seen)
    resumed = LinUcb(SCHEMA, TUNING)
    resumed.resume(Totals.decode(learned(seen[:50]).totals().encode()))
    for arm, values, reward, at in seen[50:]:
        resumed.learn(arm, values, reward, at)
    assert resumed.totals().encode() == steady.totals().encode()
    assert resumed.outcomes == 80
    with pytest.raises(ValueError, match="before it learns"):
        resumed.resume(steady.totals())
    with pytest.raises(ValueError, match="schema or memory"):
        LinUcb(replace(SCHEMA, name="test-2"), TUNING).resume(steady.totals())
