import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from smartpay_router.simulate import main, seeds_of
from smartpay_router.simulation.policies import POLICIES, RiverLinUcb, Static
from smartpay_router.simulation.runner import Payment, interval, ratio_interval, run
from smartpay_router.simulation.stream import FEATURES, draw
from smartpay_router.simulation.world import (
    Contexts,
    Drift,
    World,
    WorldError,
    load,
    packaged,
    parse,
)

SMALL = """
about: Two processors, one of them better, and an outage of each.
payments: 400
payments_per_hour: 60
arms:
  - {name: alder, success: 0.9, fee: {basis_points: 100}}
  - {name: birch, success: 0.8, fee: {basis_points: 50, fixed_minor_units: 5}}
contexts: {own: 0.3}
drift: {logits_per_thousand_payments: 0.2}
outages:
  - {count: 2, payments: 60, success: 0.1}
"""


def small(**changes: object) -> World:
    return parse(SMALL).model_copy(update=changes)


def test_every_packaged_world_can_be_drawn() -> None:
    assert {"real", "drift", "flat", "static", "outage"} <= set(packaged())
    for name in packaged():
        world = load(name)
        stream = draw(world, 1)
        assert stream.success.shape == (world.payments, len(world.arms))
        assert ((stream.success > 0) & (stream.success < 1)).all()
        assert ((stream.fee_shares >= 0) & (stream.fee_shares <= 1)).all()


def test_a_seed_is_one_stream_byte_by_byte_and_another_seed_another() -> None:
    one, same, other = draw(small(), 3), draw(small(), 3), draw(small(), 4)
    for field in fields(one):
        mine, its = getattr(one, field.name), getattr(same, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.tobytes() == its.tobytes()
        elif isinstance(mine, dict):
            assert all(mine[k].tobytes() == its[k].tobytes() for k in mine)
    assert one.succeeds.tobytes() != other.succeeds.tobytes()


def test_a_shorter_run_is_the_beginning_of_the_same_stream() -> None:
    whole = draw(small(), 3)
    short = whole.until(100)
    assert short.succeeds.tobytes() == whole.succeeds[:100].tobytes()
    assert short.kinds["region"].tobytes() == whole.kinds["region"][:100].tobytes()
    assert short.arms == whole.arms


def test_another_drift_leaves_payers_and_outages_as_they_were() -> None:
    calm = small(drift=parse(SMALL).drift.model_copy(update={"logits_per_thousand_payments": 0}))
    one, other = draw(small(), 5), draw(calm, 5)
    assert one.values.tobytes() == other.values.tobytes()
    assert one.broken.tobytes() == other.broken.tobytes()
    assert one.success.tobytes() != other.success.tobytes()


def test_the_average_payment_succeeds_as_the_world_says() -> None:
    world = small(payments=20_000, outages=(), drift=Drift())
    stream = draw(world, 1)
    assert stream.succeeds.mean(axis=0) == pytest.approx([0.9, 0.8], abs=0.01)
    assert stream.values.shape == (20_000, len(FEATURES)) == (20_000, 22)


def test_outages_hit_each_arm_in_turn_and_for_as_long_as_said() -> None:
    stream = draw(small(), 7)
    assert stream.broken.sum(axis=0).tolist() == [60, 60]
    assert (stream.success[stream.broken] <= 0.1).all()


def test_an_outage_of_one_method_spares_the_others() -> None:
    world = parse(SMALL.replace("success: 0.1}", "success: 0.1, method: 1}"))
    stream = draw(world, 7)
    assert stream.broken.any()
    assert (stream.kinds["method"][stream.broken.any(axis=1)] == 1).all()


def test_arms_exchange_their_success_when_the_world_says_so() -> None:
    told = {"logits_per_thousand_payments": 0, "exchange_every_payments": 100}
    world = small(
        outages=(),
        contexts=Contexts(),
        drift=parse(SMALL).drift.model_copy(update=told),
    )
    success = draw(world, 1).success
    assert success[0] == pytest.approx([0.9, 0.8])
    assert success[100] == pytest.approx([0.8, 0.9])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("payments: 400", "payments: none", "payments: Input should be a valid integer"),
        ("payments: 400\n", "", "payments: is missing; write 6000 is customary"),
        ("success: 0.9", "success: 1.2", "arms.0.success: Input should be less than 1"),
        ("success: 0.9", "success: .nan", "arms.0.success: Input should be a finite number"),
        ("name: birch", "name: alder", "two arms have one name; name each arm once"),
        ("own: 0.3", "owned: 0.3", "contexts.owned: there is no such field; remove it, or write"),
        ("count: 2", "count: 9", "outages of one kind take longer than the stream"),
        ("basis_points: 50", "basis_points: -1", "arms.1.fee.basis_points: Input should be greate"),
        ("own: 0.3", "own: 0.3", None),
    ],
)
def test_a_mistake_in_a_world_names_field_reason_and_remedy(
    old: str, new: str, told: str | None
) -> None:
    text = SMALL.replace(old, new, 1)
    if told is None:
        assert parse(text).payments == 400
        return
    with pytest.raises(WorldError) as refused:
        parse(text)
    assert told in str(refused.value)


@pytest.mark.parametrize("text", ["", "- 1", "about: [", "&a [*a]", "x" * 10])
def test_what_is_no_world_is_refused(text: str) -> None:
    with pytest.raises(WorldError):
        parse(text)


def test_a_file_that_is_missing_too_long_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="there is no 'nowhere'"):
        load("nowhere")
    for name, content in (("long.yaml", b"#" * 100_001), ("odd.yaml", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WorldError):
            load(str(tmp_path / name))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_policy_decides_the_same_way_twice(policy: str) -> None:
    world = small()
    stream = draw(world, 2)
    one, same = (run(stream, POLICIES[policy](world, stream, 2)) for _ in range(2))
    assert one.choices.tobytes() == same.choices.tobytes()
    assert 0 <= one.regret < 400


def test_the_oracle_loses_nothing_and_the_merchants_order_gains_nothing() -> None:
    world = small()
    stream = draw(world, 2)
    assert run(stream, POLICIES["oracle"](world, stream, 2)).regret == 0
    still = run(stream, Static())
    assert (still.gain_percent, still.shortfall_percent) == (0, 0)


def test_all_policies_meet_the_same_outcome_on_the_same_arm() -> None:
    stream = draw(small(), 2)
    heard: list[tuple[int, bool]] = []

    class Second(Static):
        def choose(self, payment: Payment) -> int:
            return 1

        def settle(
            self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
        ) -> None:
            heard.append((payment.number, succeeded))

    run(stream, Second())
    run(stream, Second())
    once = len(heard) // 2
    assert heard[:once] == heard[once:]
    # The last outcome comes when nobody is left to be asked.
    assert [succeeded for _, succeeded in heard[:once]] == stream.succeeds[:-1, 1].tolist()


@pytest.mark.parametrize("delay", [0, 7])
def test_outcomes_come_so_many_payments_later_and_lost_ones_never(delay: int) -> None:
    told = small().delays.model_copy(update={"lost_share": 0.5})
    stream = draw(small(delays=told), 2)
    known: list[int] = []

    class Listener(Static):
        def choose(self, payment: Payment) -> int:
            due = {n for n in range(payment.number - delay) if not stream.lost[n]}
            assert set(known) == due
            return 0

        def settle(
            self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
        ) -> None:
            assert at > payment.at
            known.append(payment.number)

    run(stream, Listener(), delay_payments=delay)
    assert 100 < len(known) < 300


def test_a_shortfall_is_measured_at_every_prefix_from_the_200th_payment_on() -> None:
    stream = draw(small(outages=()), 2)

    class Worst(Static):
        def choose(self, payment: Payment) -> int:
            return 1

    worst = run(stream, Worst())
    share = np.cumsum(-worst.gained)[199:] / np.cumsum(worst.baseline)[199:]
    assert worst.shortfall_percent == pytest.approx(max(0, 100 * share.max()))


def test_each_merchant_has_accounts_of_its_own() -> None:
    world = small(merchants=parse(SMALL).merchants.model_copy(update={"count": 5, "own": 1.0}))
    stream = draw(world, 1)
    assert set(stream.merchants.tolist()) == set(range(5))
    assert run(stream, POLICIES["ours"](world, stream, 1)).regret < 400


def test_intervals_hold_the_mean_and_a_ratio_of_equals_is_one() -> None:
    low, high = interval([1.0, 2.0, 3.0])
    assert low < 2 < high
    assert interval([4.0]) == (4, 4)
    assert ratio_interval([1.0, 5.0], [1.0, 5.0]) == (1, 1)


@pytest.mark.parametrize(("text", "seeds"), [("7", [7]), ("101-103", [101, 102, 103])])
def test_seeds_are_one_or_a_range(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize(
    "arguments",
    [
        ["--world", "nowhere", "--seeds", "1", "--policy", "ours"],
        ["--world", "real", "--seeds", "5-1", "--policy", "ours"],
        ["--world", "real", "--seeds", "x", "--policy", "ours"],
        ["--world", "real", "--seeds", "1-99999", "--policy", "ours"],
        ["--world", "real", "--seeds", "1", "--policy", "luck"],
        ["--world", "real", "--seeds", "1", "--policy", "ours", "--payments", "0"],
    ],
)
def test_a_command_that_makes_no_sense_ends_with_a_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, POLICIES)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_command_prints_one_line_of_json_last(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL)
    command = [sys.executable, "-m", "smartpay_router.simulate", "--world", str(path)]
    done = subprocess.run(
        [*command, "--seeds", "1-2", "--policy", "ours", "--payments", "300"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["payments"], told["seeds"], len(told["regrets"])) == (300, [1, 2], 2)
    assert sum(told["first_place"].values()) == pytest.approx(1, abs=0.001)
    assert "seed 2: regret" in done.stderr


def test_ours_loses_less_than_river_where_processors_change_and_break() -> None:
    world = load("real")
    lost = {"ours": 0.0, "river": 0.0}
    for seed in (1, 2):
        stream = draw(world, seed).until(3_000)
        lost["ours"] += run(stream, POLICIES["ours"](world, stream, seed)).regret
        lost["river"] += run(stream, RiverLinUcb(len(world.arms), seed)).regret
    assert lost["ours"] < lost["river"]
