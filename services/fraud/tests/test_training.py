"""Training repeats itself to the byte, and the committed bundle is what the code would train."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from smartpay_fraud import train
from smartpay_fraud.adapters.bundle_source import source_of
from smartpay_fraud.adapters.model_bundle import arrays, load
from smartpay_fraud.domain.features import DAY_MS, FEATURES
from smartpay_fraud.training import fitting, metrics, payments_world, trees
from smartpay_fraud.training.fitting import GOLDEN_EARLY, Split
from smartpay_fraud.training.job import JobError, job_of
from smartpay_fraud.training.payments_world import (
    HONEST,
    REPORTED,
    SCENARIOS,
    START_MS,
    PaymentsWorld,
)
from smartpay_fraud.training.replay import replay
from smartpay_fraud.training.stream import ABSENT, NEVER, Ints, Stream

SMALL = PaymentsWorld(
    days=21,
    customers=700,
    sales=2,
    batches=1,
    card_tests=25,
    takeovers=20,
    stolen_cards=60,
    compromised_shops=2,
    night_buyers=25,
)
SMALL_SPLIT = Split(graph=(0, 0), train=(0, 10), calibrate=(10, 14), test=(14, 21))


@pytest.fixture(scope="module")
def stream() -> Stream:
    return payments_world.generate()


@pytest.fixture(scope="module")
def packaged() -> dict[str, bytes]:
    return dict(source_of("").read())


def first(stream: Stream, count: int) -> Stream:
    """The first payments of a stream."""
    return replace(
        stream,
        **{
            name: getattr(stream, name)[:count]
            for name in ("time_ms", "amount_minor", "fraud", "known_ms", "customer", "terminal")
        },
        codes={name: codes[:count] for name, codes in stream.codes.items()},
        scenario=stories(stream)[:count],
        declined_ms=declines(stream)[:count],
    )


def stories(stream: Stream) -> Ints:
    assert stream.scenario is not None
    return stream.scenario


def declines(stream: Stream) -> Ints:
    assert stream.declined_ms is not None
    return stream.declined_ms


def test_two_trainings_compute_the_same_features_and_write_the_same_bytes() -> None:
    runs = []
    for _ in range(2):
        stream = payments_world.generate(SMALL)
        replayed = replay(stream)
        fitted = fitting.fit(stream, replayed, SMALL_SPLIT, None)
        files = fitting.contents(fitted, stream, replayed, SMALL_SPLIT)
        manifest = fitting.manifest(fitted, files, {"window": "small"}, metrics={})
        runs.append((replayed.fingerprint, manifest, files))
    assert runs[0] == runs[1]
    files = {"manifest.json": json.dumps(runs[0][1]).encode(), **runs[0][2]}
    assert load(files).version == runs[0][1]["model_version"]


def test_the_committed_bundle_states_what_the_code_would_do(packaged: dict[str, bytes]) -> None:
    manifest = json.loads(packaged["manifest.json"])
    training = manifest["training"]
    assert training["world"] == asdict(PaymentsWorld())
    assert training["parameters"] == trees.PARAMETERS
    assert training["trees"] == trees.TREES
    assert manifest["features"] == list(FEATURES)
    assert manifest["gate"]["accepted"] is ("sage.safetensors" in manifest["files"])


def test_the_committed_golden_rows_come_out_of_the_replay_again(
    stream: Stream, packaged: dict[str, bytes]
) -> None:
    golden = arrays(packaged["golden.npz"])
    early = np.flatnonzero(golden["payments"] < GOLDEN_EARLY)
    assert len(early) >= 32
    again = replay(first(stream, GOLDEN_EARLY)).rows[golden["payments"][early]]
    np.testing.assert_array_equal(again, golden["rows"][early])


def test_the_committed_model_beats_the_rule_that_large_is_suspicious(
    packaged: dict[str, bytes],
) -> None:
    manifest = json.loads(packaged["manifest.json"])
    weeks = manifest["metrics"]["weeks"]
    assert len(weeks) == 4
    for week in weeks:
        assert week["model"]["average_precision"] > 2 * week["amount_only"]["average_precision"]
        assert week["model"]["roc_auc"] > 0.93
    assert manifest["metrics"]["verdicts"]["honest"]["BLOCK"] < 0.003


def test_the_committed_bundle_is_small_enough_to_ship(packaged: dict[str, bytes]) -> None:
    assert sum(map(len, packaged.values())) < 1_500_000


def test_the_stream_is_ordered_and_tells_every_story(stream: Stream) -> None:
    assert (np.diff(stream.time_ms) >= 0).all()
    assert stream.time_ms.min() >= START_MS
    assert stream.time_ms.max() < START_MS + PaymentsWorld().days * DAY_MS
    assert (stream.amount_minor >= 1).all()
    for number, _ in enumerate(SCENARIOS):
        assert np.count_nonzero(stories(stream) == number) > 50
    assert 0.005 < stream.fraud.mean() < 0.05


def test_labels_and_declines_become_known_after_the_payment(stream: Stream) -> None:
    labelled = stream.known_ms != NEVER
    np.testing.assert_array_equal(labelled, stream.fraud)
    delay = stream.known_ms[labelled] - stream.time_ms[labelled]
    assert delay.min() >= DAY_MS
    assert delay.max() < 7 * DAY_MS
    declined = declines(stream) != NEVER
    assert (declines(stream)[declined] > stream.time_ms[declined]).all()


def test_missing_inputs_are_as_common_among_honest_payments(stream: Stream) -> None:
    fraud = ~np.isin(stories(stream), (HONEST, REPORTED))
    columns = {"customer": stream.customer, "terminal": stream.terminal, **stream.codes}
    for name in ("device", "network", "customer", "terminal", "category", "country"):
        missing = columns[name] == ABSENT
        assert missing[~fraud].mean() > 0.1, name
        assert missing[fraud].mean() < missing[~fraud].mean() + 0.15, name


def test_a_compromised_shop_is_one_shop_of_its_merchant(stream: Stream) -> None:
    hit = stories(stream) == SCENARIOS.index("compromised shop")
    for merchant in np.unique(stream.codes["merchant"][hit]).tolist():
        at = hit & (stream.codes["merchant"] == merchant)
        assert len(np.unique(stream.terminal[at])) == 1


def test_another_seed_is_another_stream() -> None:
    streams = [payments_world.generate(replace(SMALL, seed=seed)) for seed in (1, 2)]
    assert not np.array_equal(streams[0].amount_minor, streams[1].amount_minor)


def test_a_stream_hands_on_what_was_sent_and_nothing_else() -> None:
    stream = Stream(
        time_ms=np.array([START_MS, START_MS]),
        amount_minor=np.array([5, 7]),
        fraud=np.zeros(2, np.bool_),
        known_ms=np.full(2, NEVER),
        customer=np.array([3, ABSENT]),
        terminal=np.array([0, 1]),
        codes={"country": np.array([0, ABSENT]), "network": np.array([0, 0])},
        names={"country": ["DE"], "network": ["198.51.100.7"], "terminal": ["a", "b"]},
    )
    one, two = stream.transactions()
    assert (one.customer_id, one.terminal_id, one.country) == ("c3", "a", "DE")
    assert (two.customer_id, two.terminal_id, two.country) == ("", "b", "")
    assert (one.ip_address, one.instrument_id, one.currency_code) == ("198.51.100.7", "", "USD")


def test_the_measures_know_a_perfect_and_a_blind_score() -> None:
    fraud = np.array([False, True, False, True, False, False])
    perfect = fraud.astype(np.float64)
    assert metrics.average_precision(fraud, perfect) == 1
    assert metrics.roc_auc(fraud, perfect) == 1
    assert metrics.roc_auc(fraud, -perfect) == 0
    blind = np.zeros(6)
    assert metrics.average_precision(fraud, blind) == pytest.approx(2 / 6)
    assert metrics.roc_auc(fraud, blind) == 0.5


def test_average_precision_is_the_mean_precision_at_each_fraud() -> None:
    fraud = np.array([True, False, True, False])
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    assert metrics.average_precision(fraud, scores) == pytest.approx((1 + 2 / 3) / 2)


def test_a_card_caught_once_is_not_counted_again() -> None:
    cards = np.array([1, 2, 1, 3])
    days = np.array([0, 0, 1, 1])
    fraud = np.array([True, False, True, False])
    scores = np.array([0.9, 0.1, 0.9, 0.2])
    assert metrics.card_precision(fraud, scores, cards, days) == pytest.approx(0.5 / 100)


def test_calibration_recovers_the_true_slope() -> None:
    rng = np.random.default_rng(4)
    margin = rng.normal(-2, 2, 40_000)
    fraud = rng.random(len(margin)) < 1 / (1 + np.exp(-(0.7 * margin - 0.5)))
    calibration = trees.calibrate(margin, fraud)
    assert calibration.slope == pytest.approx(0.7, abs=0.03)
    assert calibration.intercept == pytest.approx(-0.5, abs=0.06)


def test_calibration_stays_sane_with_a_handful_of_frauds() -> None:
    margin = np.r_[np.full(500, -40.0), [-39.0, 3.0, 35.0]]
    fraud = np.r_[np.zeros(500, np.bool_), [False, True, True]]
    calibration = trees.calibrate(margin, fraud)
    assert 0 < calibration.slope < 2
    assert calibration.probability(-40) < 0.01 < 0.5 < calibration.probability(35)


def test_sampled_honest_payments_weigh_as_much_as_all_of_them() -> None:
    fraud = np.arange(20_000) % 100 == 0
    kept, weight = trees.sample(fraud, 0.25)
    assert set(np.flatnonzero(fraud)) <= set(kept.tolist())
    assert weight[~fraud[kept]].sum() == pytest.approx((~fraud).sum(), rel=0.05)
    assert (weight[fraud[kept]] == 1).all()


def test_training_outside_its_environment_says_which_one_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "_NEEDED", ("numpy", "no_such_package"))
    assert train.main([]) == train.NO_ENVIRONMENT
    told = capsys.readouterr().err
    assert "no_such_package" in told
    assert ".venv-train" in told


def a_job(root: Path, parameters: dict[str, str], tables: tuple[str, ...] = ()) -> Path:
    (root / "input" / "config").mkdir(parents=True)
    (root / "input" / "config" / "hyperparameters.json").write_text(json.dumps(parameters))
    channel = root / "input" / "data" / "training"
    channel.mkdir(parents=True)
    for name in tables:
        (channel / name).write_text("")
    return channel


def test_a_training_job_finds_its_channel_and_its_model_folder(tmp_path: Path) -> None:
    channel = a_job(
        tmp_path, {"protocol": "handbook", "sagemaker_region": "x"}, ("payments.parquet",)
    )
    job = job_of({}, tmp_path)
    assert job is not None
    assert job.transactions == channel / "payments.parquet"
    assert job.out == tmp_path / "model"
    job.failed(ValueError("amount, row 3"))
    assert (tmp_path / "output" / "failure").read_text() == "ValueError: amount, row 3"


def test_a_training_jobs_environment_goes_before_the_usual_folders(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "a.csv").write_text("")
    told = {"SM_MODEL_DIR": str(tmp_path / "m"), "SM_CHANNEL_TRAIN": str(other)}
    job = job_of(told, tmp_path)
    assert job is not None
    assert (job.transactions, job.out) == (other / "a.csv", tmp_path / "m")


def test_a_training_jobs_champion_has_a_channel_of_its_own(tmp_path: Path) -> None:
    channel = a_job(tmp_path, {}, ("payments.csv",))
    assert (job := job_of({}, tmp_path)) is not None
    assert job.champion is None
    (channel.parent / "champion").mkdir()
    channel.rename(channel.parent / "anything")
    assert (job := job_of({}, tmp_path)) is not None
    assert job.champion == channel.parent / "champion"
    assert job.transactions == channel.parent / "anything" / "payments.csv"


def test_no_training_job_is_seen_where_there_is_none(tmp_path: Path) -> None:
    assert job_of({}, tmp_path) is None


@pytest.mark.parametrize(
    ("parameters", "tables", "told"),
    [
        ({"epochs": "9"}, ("a.csv",), "epochs='9' is not known"),
        ({}, ("a.csv", "b.csv"), "holds 2 tables"),
        ({}, (), "holds 0 tables"),
    ],
)
def test_a_training_job_set_up_wrongly_is_told_what_to_change(
    tmp_path: Path, parameters: dict[str, str], tables: tuple[str, ...], told: str
) -> None:
    a_job(tmp_path, parameters, tables)
    with pytest.raises(JobError, match=told):
        job_of({}, tmp_path)
