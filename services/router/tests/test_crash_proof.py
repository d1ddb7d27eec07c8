"""`make chaos-router` in short, and that its judge sees what it is there to see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent
from smartpay.router.v1.router_pb2 import Decision, RankedAccount
from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.context import Context
from smartpay_router.domain.replicas import Mind, Replica
from smartpay_router.proof.__main__ import run
from smartpay_router.proof.load import Ledger
from smartpay_router.proof.points import POINTS, found
from smartpay_router.proof.replay import OWNER, conceive, fill, replay
from smartpay_router.proof.verdict import Verdict, judge

SNAPSHOT_ROWS = 40


@pytest.mark.parametrize(("kills", "replicas"), [(5, 1), (3, 2)])
async def test_routers_killed_amid_load_lose_double_and_forget_nothing(
    kills: int, replicas: int
) -> None:
    result = await run(kills, seed=20261123, replicas=replicas)
    summary = result.summary()
    assert summary["violations"] == 0, summary
    assert summary["kills"] == kills
    assert summary["acknowledged_outcomes"] > 20, summary
    assert summary["acknowledged_bindings"] > 10, summary
    assert summary["rows_behind_snapshot_max"] < summary["log_rows"], "no snapshot was used"


@pytest.mark.parametrize("name", sorted(POINTS))
def test_each_point_names_a_function_that_the_router_still_has(name: str) -> None:
    owner, function = found(POINTS[name])
    assert callable(getattr(owner, function))


async def test_a_long_log_is_learned_whole_at_start(tmp_path: Path) -> None:
    replayed = await replay(tmp_path / "router.db", rows=2_000, seed=1, starts=1)
    assert replayed.rows == 2_000
    assert replayed.outcomes > 1_900, "healthy traffic is hardly ever held back"


# ---- the judge -------------------------------------------------------------------------------


def numbered(number: int) -> str:
    return f"dec_d1{number:024d}"


@pytest.fixture
async def left(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, Ledger]]:
    """A dead router's file with a snapshot amid its log, and what its callers know of it."""
    store = await SqliteStore.open(tmp_path / "router.db", MIGRATIONS)

    def empty(owner: str, epoch: int) -> Mind:
        return conceive(store, owner, epoch)

    await fill(store, SNAPSHOT_ROWS, seed=3)
    await Replica(OWNER, SqliteReplicas(store), empty, lambda: 0.0).join()
    later = SqliteOutcomes(store, OWNER)
    page = await later.after(0, OWNER, "")
    await store.write(
        lambda db: (
            db.execute(
                "INSERT INTO outcome_log SELECT position + 1000, owner, decision_id || '0',"
                " attempt_index, is_final, merchant_id, livemode, processor_account_id, processor,"
                " outcome, several_rails, heard_before, decided_at, at, context_schema, context"
                " FROM outcome_log WHERE position <= 10"
            ).rowcount
        )
    )
    ledger = Ledger()
    rows = zip(page.decision_ids, page.accounts, page.outcomes, strict=True)
    for decision_id, account, outcome in rows:
        ledger.outcomes[decision_id, 0] = (account, outcome)
    yield store, ledger
    await store.close()


async def look(left: tuple[SqliteStore, Ledger], folder: Path, harm: str = "") -> Verdict:
    store, ledger = left
    if harm:
        await store.write(lambda db: db.execute(harm).rowcount)
    return await judge(folder / "router.db", ledger)


async def test_a_file_that_kept_all_promises_is_clean(
    left: tuple[SqliteStore, Ledger], tmp_path: Path
) -> None:
    verdict = await look(left, tmp_path)
    assert verdict.is_clean, verdict
    assert (verdict.rows, verdict.behind) == (SNAPSHOT_ROWS + 10, 10)


@pytest.mark.parametrize(
    ("harm", "broken"),
    [
        ("DELETE FROM outcome_log WHERE position = 3", "lost"),
        ("UPDATE outcome_log SET outcome = 'FRAUD' WHERE position = 2", "lost"),
        ("UPDATE outcome_log SET processor_account_id = 'pac' WHERE position = 2", "lost"),
        # Five rows are learned again, or never; or the sums are somebody else's.
        ("UPDATE replica_states SET position = position - 5", "error"),
        ("UPDATE replica_states SET position = 1003", "error"),
        (
            """UPDATE outcome_log SET context =
                (SELECT context FROM outcome_log WHERE position = 20) WHERE position = 2""",
            "error",
        ),
        (
            """UPDATE replica_states SET breakers =
                CAST('{"breakers": {"accounts": [], "models": []}, "held": []}' AS BLOB)""",
            "strayed",
        ),
    ],
)
async def test_the_judge_sees_what_a_file_has_lost_or_learned_twice(
    left: tuple[SqliteStore, Ledger], tmp_path: Path, harm: str, broken: str
) -> None:
    verdict = await look(left, tmp_path, harm)
    assert not verdict.is_clean
    assert getattr(verdict, broken), verdict


async def test_the_judge_sees_a_binding_and_a_decision_that_nobody_stored(
    left: tuple[SqliteStore, Ledger], tmp_path: Path
) -> None:
    left[1].bound["pay_1"] = numbered(1)
    left[1].decisions.add(numbered(SNAPSHOT_ROWS + 1))
    verdict = await look(left, tmp_path)
    assert (verdict.unbound, verdict.forgotten) == (1, 1)


async def test_the_judge_sees_an_event_that_was_passed_over(
    left: tuple[SqliteStore, Ledger], tmp_path: Path, context: Context
) -> None:
    event = PaymentEvent(
        payment=Payment(
            route=Decision(
                decision_id=numbered(SNAPSHOT_ROWS + 1),
                ranking=[RankedAccount(processor_account_id="pac")],
                context=context.values,
                context_schema=context.schema,
            ),
            attempts=[Attempt(processor_account_id="pac", status=Attempt.STATUS_SUCCEEDED)],
        )
    )
    for time in (event.time, event.payment.route.create_time):
        time.FromSeconds(1_790_000_000)
    left[1].events.append(event)
    assert (await look(left, tmp_path)).is_clean, "the event has not been read yet"
    verdict = await look(left, tmp_path, "INSERT INTO event_cursor VALUES (1, '1')")
    assert verdict.lost == 1
