"""Both histories keep the same promises; the real one keeps them across a restart."""

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.adapters.migrations import MIGRATIONS
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.adapters.sqlite_past import SqlitePast
from smartpay_fraud.adapters.sqlite_reviews import SqliteReviews
from smartpay_fraud.adapters.sqlite_traces import customer_key, tenant_print
from smartpay_fraud.domain.assessment import Assessment, Claim, Finding, Happening, Shadow
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.domain.reasons import Reason
from smartpay_fraud.domain.scoring import BEGINNING, History, Place
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

AN_ASSESSMENT = Assessment(
    transaction=Transaction("mer", False, "t1", 1_999, "USD", "customer", "card", "device", "::1"),
    verdict=Verdict.REVIEW,
    score=0.1 + 0.2,
    reasons=(Reason("AMOUNT_HIGH", "The amount is about 20 USD.", 1 / 3, {"amount": 19.99}),),
    model_version="trees-0",
    rules_version=1,
    scored_ms=1_000,
    margin=1 / 7,
    shadow=Shadow("trees-1", 0.4),
    matched_rules=("LARGE",),
    matched_lists=("lst_1",),
    control=True,
)
KEY = AN_ASSESSMENT.transaction.key
PAYMENT_FIELDS = [field.name for field in fields(Transaction)]


def another(number: int, **changes: object) -> Assessment:
    transaction = replace(AN_ASSESSMENT.transaction, transaction_id=f"t{number}")
    assessment = AN_ASSESSMENT._replace(transaction=transaction, scored_ms=number * 1_000)
    return assessment._replace(**changes)  # type: ignore[arg-type]  # names are checked at run


@pytest.fixture(params=["memory", "sqlite"])
async def kept(
    request: pytest.FixtureRequest, history: History, tmp_path: Path
) -> AsyncIterator[History]:
    if request.param == "memory":
        yield history
        return
    opened = await SqliteHistory.open(tmp_path / "fraud.db")
    yield opened
    await opened.close()


async def replayed(history: History, since_ms: int = 0, limit: int = 100) -> list[Happening]:
    return [memory async for memory in history.replay(since_ms, limit, BEGINNING)]


async def test_what_was_added_is_found_unchanged(kept: History) -> None:
    assert await kept.find_all([KEY]) == {}
    assert await kept.add_all([AN_ASSESSMENT]) == [AN_ASSESSMENT]
    assert await kept.find_all([KEY]) == {KEY: AN_ASSESSMENT}


async def test_the_first_assessment_of_a_transaction_stays(kept: History) -> None:
    await kept.add_all([AN_ASSESSMENT])
    second = AN_ASSESSMENT._replace(verdict=Verdict.BLOCK)
    assert await kept.add_all([second]) == [AN_ASSESSMENT]
    assert await kept.find_all([KEY]) == {KEY: AN_ASSESSMENT}


async def test_tenants_and_modes_are_apart(kept: History) -> None:
    await kept.add_all([AN_ASSESSMENT])
    assert await kept.find_all([KEY._replace(merchant_id="other")]) == {}
    assert await kept.find_all([KEY._replace(livemode=True)]) == {}


async def test_a_claim_is_new_once(kept: History) -> None:
    await kept.add_all([AN_ASSESSMENT])
    claim = Claim(KEY, "recorded", Finding.FRAUD, 5_000, None)
    assert await kept.add_claims([claim], None) == [
        Happening(AN_ASSESSMENT.transaction, 5_000, Finding.FRAUD)
    ]
    assert await kept.add_claims([claim], None) == []
    assert await kept.add_claims([replace(claim, heard_ms=9_000)], None) == []


async def test_a_changed_word_is_new_and_replaces_the_first(kept: History) -> None:
    await kept.add_all([AN_ASSESSMENT])
    claim = Claim(KEY, "recorded", Finding.FRAUD, 5_000, 4_000)
    await kept.add_claims([claim], None)
    (corrected,) = await kept.add_claims([replace(claim, known_ms=4_500)], None)
    assert corrected.at_ms == 4_500
    (changed,) = await kept.add_claims([replace(claim, finding=Finding.LEGITIMATE)], None)
    assert changed.finding is Finding.LEGITIMATE
    findings = [memory for memory in await replayed(kept) if memory.finding]
    assert findings == [changed]


async def test_a_claim_about_nothing_scored_is_dropped(kept: History) -> None:
    stranger = Claim(TransactionKey("mer", False, "none"), "x", Finding.FRAUD, 1, None)
    assert await kept.add_claims([stranger], "7") == []


async def test_a_replay_tells_scores_in_order_and_then_findings(kept: History) -> None:
    for number in (1, 2, 3):
        await kept.add_all([another(number)])
    await kept.add_all([another(4, verdict=Verdict.BLOCK)])
    await kept.add_claims([Claim(KEY, "recorded", Finding.FRAUD, 1, None)], None)
    memories = await replayed(kept)
    assert [m.transaction.transaction_id for m in memories] == ["t1", "t2", "t3", "t4", "t1"]
    assert [m.blocked for m in memories] == [False, False, False, True, False]
    assert memories[-1].finding is Finding.FRAUD


async def test_a_replay_is_bounded_in_time_and_number(kept: History) -> None:
    for number in range(1, 6):
        await kept.add_all([another(number)])
    claims = [Claim(another(n).transaction.key, "recorded", Finding.FRAUD, 1, None) for n in (1, 5)]
    await kept.add_claims(claims, None)
    recent = await replayed(kept, since_ms=4_000)
    assert [m.transaction.transaction_id for m in recent] == ["t4", "t5", "t5"]
    last = await replayed(kept, limit=2)
    assert [m.transaction.transaction_id for m in last] == ["t4", "t5", "t5"]


async def test_the_cursor_and_the_claims_survive_a_restart_together(tmp_path: Path) -> None:
    first = await SqliteHistory.open(tmp_path / "fraud.db")
    assert await first.cursor() == ""
    await first.add_all([AN_ASSESSMENT])
    await first.add_claims([Claim(KEY, "decline:0", Finding.DECLINED, 2, None)], "41")
    await first.add_claims([], "42")
    await first.close()
    second = await SqliteHistory.open(tmp_path / "fraud.db")
    assert await second.cursor() == "42"
    assert await second.find_all([KEY]) == {KEY: AN_ASSESSMENT}
    assert len(await replayed(second)) == 2
    await second.close()


async def test_several_are_stored_in_one_go_and_answered_in_order(kept: History) -> None:
    await kept.add_all([another(2)])
    racing = another(2, verdict=Verdict.BLOCK)
    assert await kept.add_all([another(1), racing, another(3)]) == [
        another(1),
        another(2),
        another(3),
    ]


async def test_of_a_large_batch_only_what_is_new_is_stored_and_all_is_answered(
    kept: History,
) -> None:
    await kept.add_all([another(number) for number in (3, 20, 41)])
    batch = [another(number, verdict=Verdict.BLOCK) for number in range(1, 42)]
    batch.append(another(5, verdict=Verdict.ALLOW))
    answered = await kept.add_all(batch)
    for number, answer in enumerate(answered[:41], start=1):
        if number in (3, 20, 41):
            assert answer == another(number)
        else:
            assert answer is batch[number - 1]
    assert answered[41] == batch[4], "a repeat within the batch"
    assert await kept.add_all(batch) == answered
    assert len(await replayed(kept)) == 41
    assert await kept.place() == Place(41, 0)


def of_customer(number: int, customer_id: str, merchant_id: str = "mer") -> Assessment:
    made = another(number)
    transaction = replace(made.transaction, customer_id=customer_id, merchant_id=merchant_id)
    return made._replace(transaction=transaction)


async def test_an_erased_customer_is_blanked_and_everything_else_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartpay_fraud.adapters.sqlite_history.ERASED_PAGE", 2)
    opened = await SqliteHistory.open(tmp_path / "fraud.db")
    theirs = [of_customer(number, "ada") for number in range(1, 6)]
    others = [of_customer(6, "bob"), of_customer(7, "ada", "other"), of_customer(8, "ada")]
    await opened.add_all([*theirs, *others])
    key = hashlib.sha256(b"mer\ntest\nada").hexdigest()
    # The eighth was scored when the id was a new customer's already.
    assert await opened.erase(key, 8_000) == ("ada", 5)
    assert await opened.erase(key, 8_000) == ("", 0)
    kept = await opened.find_all([a.transaction.key for a in [*theirs, *others]])
    for assessment in theirs:
        left = kept[assessment.transaction.key]
        told = left.transaction
        assert (told.customer_id, told.instrument_id, told.device_id, told.ip_address) == ("",) * 4
        assert (left.score, left.verdict, told.amount_minor) == (
            assessment.score,
            assessment.verdict,
            assessment.transaction.amount_minor,
        )
    assert [kept[a.transaction.key] for a in others] == others
    await opened.close()


async def test_a_replay_reads_page_after_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartpay_fraud.adapters.sqlite_history.REPLAY_PAGE", 3)
    opened = await SqliteHistory.open(tmp_path / "fraud.db")
    for number in range(1, 9):
        await opened.add_all([another(number)])
        claim = Claim(another(number).transaction.key, "recorded", Finding.FRAUD, 1, None)
        await opened.add_claims([claim], None)
    assert len(await replayed(opened)) == 16
    await opened.close()


def as_text(number: int, **told: object) -> tuple[object, ...]:
    """A score as the first two releases kept it, with its payment and its answer in JSON."""
    payment = {"merchant_id": "mer", "livemode": False, "transaction_id": f"t{number}"}
    payment |= {"amount_minor": 100, "currency_code": "USD", **told}
    answer = {"score": number / 8, "reasons": [["AMOUNT_HIGH", "It is.", 0.25]]}
    answer |= {"model_version": "trees-0", "rules_version": 1}
    key = ("mer", 0, f"t{number}")
    return (*key, number * 1_000, "REVIEW", json.dumps(payment), json.dumps(answer))


_AS_TEXT = (
    "INSERT INTO assessments (merchant_id, livemode, transaction_id, scored_ms, verdict, input,"
    " output) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


async def test_a_file_of_the_first_release_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "fraud.db"
    store = await SqliteStore.open(path, MIGRATIONS[:1])
    row = as_text(1, customer_id="ada")
    await store.write(lambda c: c.execute(_AS_TEXT, row).rowcount)
    await store.close()
    opened = await SqliteHistory.open(path)
    kept = (await opened.find_all([KEY]))[KEY]
    assert (kept.transaction.customer_id, kept.transaction.country) == ("ada", "")
    assert kept.reasons == (Reason("AMOUNT_HIGH", "It is.", 0.25),)
    assert [h.score for h in await replayed(opened)] == [0.125]
    pasts, position = await SqlitePast(opened.store).page("mer", False, 9, 0, 2_000, 10)
    assert ([past.row for past in pasts], position) == ([None], 0)
    await opened.close()


async def test_a_file_of_the_second_release_tells_all_it_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartpay_fraud.adapters.sqlite_traces.TRACED_MAX", 2)
    path = tmp_path / "fraud.db"
    store = await SqliteStore.open(path, MIGRATIONS[:2])
    payment = {field: getattr(AN_ASSESSMENT.transaction, field) for field in PAYMENT_FIELDS}
    reasons = [[r.code, r.message, r.contribution, dict(r.values)] for r in AN_ASSESSMENT.reasons]
    answer = {"score": AN_ASSESSMENT.score, "margin": AN_ASSESSMENT.margin, "reasons": reasons}
    answer |= {"model_version": "trees-0", "rules_version": 1, "matched_rules": ["LARGE"]}
    answer |= {"matched_lists": ["lst_1"], "opens_review": False, "control": True}
    whole = ("mer", 0, "t1", 1_000, "REVIEW", json.dumps(payment), json.dumps(answer))
    features = np.arange(len(FEATURES), dtype="<f4")

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO feature_sets VALUES (1, ?)", (json.dumps(FEATURES),))
        for row in (
            whole,
            *(as_text(n, customer_id="customer") for n in (2, 3)),
            *(as_text(n, device_id="device") for n in (4, 5)),
            as_text(6, customer_id="bob"),
        ):
            connection.execute(_AS_TEXT, row)
        connection.execute(
            "UPDATE assessments SET shadow_version = 'trees-1', shadow_score = 0.4,"
            " feature_set = 1, row = ? WHERE number = 1",
            (features.tobytes(),),
        )

    await store.write(work)
    await store.close()
    opened = await SqliteHistory.open(path)
    assert await opened.find_all([KEY]) == {KEY: AN_ASSESSMENT}
    assert await opened.place() == Place(6, 0)
    pasts, _ = await SqlitePast(opened.store).page("mer", False, 9, 0, 9_000, 10)
    assert [past.transaction.transaction_id for past in pasts] == [f"t{n}" for n in range(6, 0, -1)]
    assert np.array_equal(pasts[-1].row, features)  # type: ignore[arg-type]  # the first had a row
    related = await SqliteReviews(opened.store).related(AN_ASSESSMENT.transaction)
    assert [(r.transaction.transaction_id, r.shared) for r in related] == [
        ("t5", ("device_id",)),
        ("t4", ("device_id",)),
        ("t3", ("customer_id",)),
        ("t2", ("customer_id",)),
    ]
    assert await opened.erase(customer_key("mer", False, "customer"), 9_000) == ("customer", 3)
    await opened.close()


async def found_for(opened: SqliteHistory, assessment: Assessment) -> list[str]:
    related = await SqliteReviews(opened.store).related(assessment.transaction)
    return [r.transaction.transaction_id for r in related]


async def test_what_was_just_stored_is_found_whether_traced_by_then_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartpay_fraud.adapters.sqlite_traces.TRACED_TOGETHER", 4)
    opened = await SqliteHistory.open(tmp_path / "fraud.db")
    traced = "SELECT CAST(cursor AS INTEGER) AS traced FROM cursors WHERE stream = 'traces'"
    places = []
    for number in range(1, 11, 2):
        await opened.add_all([another(number), another(number + 1)])
        places += await opened.store.read(lambda c: [r["traced"] for r in c.execute(traced)])
    assert places == [0, 4, 4, 8, 8]
    assert await found_for(opened, another(3)) == [f"t{n}" for n in range(10, 0, -1) if n != 3]
    await opened.add_all([another(11)])
    pasts, _ = await SqlitePast(opened.store).page("mer", False, 99, 0, 99_000, 2)
    assert [past.transaction.transaction_id for past in pasts] == ["t11", "t10"]
    await opened.close()


async def test_what_was_stored_before_a_sudden_end_is_traced_at_the_next_start(
    tmp_path: Path,
) -> None:
    first = await SqliteHistory.open(tmp_path / "fraud.db")
    await first.add_all([another(1), another(2)])
    await first.close()
    second = await SqliteHistory.open(tmp_path / "fraud.db")
    found = await second.store.read(
        lambda c: c.execute(
            "SELECT count(*) AS n FROM traces WHERE traces MATCH ?", (tenant_print("mer", False),)
        ).fetchone()["n"]
    )
    assert found == 2
    await second.close()


async def test_an_erased_customer_is_found_by_no_trace_and_others_are(tmp_path: Path) -> None:
    opened = await SqliteHistory.open(tmp_path / "fraud.db")
    await opened.add_all([another(1), another(2), of_customer(3, "bob")])
    await opened.erase(customer_key("mer", False, "customer"), 9_000)
    # Bob has the same card, device and address; the others' are blank by now.
    assert await found_for(opened, of_customer(9, "bob")) == ["t3"]
    assert await found_for(opened, another(9)) == ["t3"]
    nobody = replace(AN_ASSESSMENT.transaction, customer_id="", instrument_id="", device_id="")
    assert await SqliteReviews(opened.store).related(replace(nobody, ip_address="")) == []
    pasts, _ = await SqlitePast(opened.store).page("mer", False, 99, 0, 99_000, 9)
    assert len(pasts) == 3, "a back-test still judges them"
    await opened.store.write(
        lambda c: c.execute("INSERT INTO traces (traces) VALUES ('integrity-check')").rowcount
    )
    await opened.close()


async def test_traces_of_other_merchants_and_modes_are_not_found(tmp_path: Path) -> None:
    opened = await SqliteHistory.open(tmp_path / "fraud.db")
    live = another(2)
    live = live._replace(transaction=replace(live.transaction, livemode=True))
    await opened.add_all([another(1), live, of_customer(3, "customer", "other")])
    assert await found_for(opened, another(9)) == ["t1"]
    pasts, _ = await SqlitePast(opened.store).page("mer", True, 99, 0, 99_000, 9)
    assert [past.transaction for past in pasts] == [live.transaction]
    await opened.close()
