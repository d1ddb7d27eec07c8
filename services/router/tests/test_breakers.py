from __future__ import annotations

import json
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_router.domain.breakers import Breakers, BreakerTuning, Kind, State, Verdict
from smartpay_router.domain.sightings import Sightings

OK, NO, DOWN = Kind.SUCCESS, Kind.DECLINE, Kind.TECHNICAL


class Road:
    """One payment per second through a set of breakers."""

    def __init__(self, breakers: Breakers | None = None, now: float = 1_000.0) -> None:
        self.breakers = breakers or Breakers()
        self.now = now

    def goes(
        self, kinds: Iterable[Kind], account: str = "pac_1", model: str = "live/stripe"
    ) -> list[Verdict]:
        verdicts = []
        for kind in kinds:
            self.now += 1
            verdicts.append(self.breakers.judge(account, model, kind, self.now, self.now))
        return verdicts

    def state(self, account: str = "pac_1", model: str = "live/stripe") -> State:
        return self.breakers.standing(account, model).state


def healthy(count: int, seed: int = 1) -> list[Kind]:
    dice = random.Random(seed)
    return [OK if dice.random() < 0.95 else NO for _ in range(count)]


def living() -> Road:
    road = Road()
    road.goes([*healthy(200), OK, OK, OK, OK])
    assert road.state() is State.CLOSED
    return road


def test_three_technical_failures_in_a_row_open_whatever_is_known() -> None:
    road = Road()
    road.goes([DOWN, DOWN])
    assert road.state() is State.CLOSED
    road.goes([DOWN])
    assert road.state() is State.OPEN
    assert road.breakers.standing("pac_1", "live/stripe").channel == "technical"


def test_many_judged_together_get_the_verdicts_and_leave_the_state_of_one_by_one() -> None:
    dice = random.Random(7)
    arms = [(f"pac_{dice.randrange(3)}", dice.choice(["live/stripe", "m"])) for _ in range(900)]
    # An outage in the middle, a recovery, and some that say nothing of health.
    tried = [dice.choices([OK, NO, DOWN, None], w) for w in [(95, 5, 1, 5)] * 300]
    tried += [dice.choices([OK, NO, DOWN, None], w) for w in [(1, 6, 3, 1)] * 100]
    tried += [dice.choices([OK, NO, DOWN, None], w) for w in [(95, 5, 1, 5)] * 500]
    kinds = [kind for (kind,) in tried]
    at = [1_000.0 + number for number in range(900)]
    decided = [moment - dice.random() * 5 for moment in at]
    one, many = Breakers(), Breakers()
    verdicts = [
        one.judge(*arm, kind, *times)
        for arm, kind, *times in zip(arms, kinds, decided, at, strict=True)
    ]
    assert list(many.judge_many(arms, kinds, decided, at)) == verdicts
    assert many.state() == one.state()
    assert set(verdicts) == set(Verdict)


def test_technical_failures_among_successes_open_nothing() -> None:
    road = living()
    road.goes([DOWN, *[OK] * 20] * 50)
    assert road.state() is State.CLOSED


def test_declines_in_a_row_open_an_account_that_was_healthy() -> None:
    road = living()
    verdicts = road.goes([NO] * 8)
    standing = road.breakers.standing("pac_1", "live/stripe")
    assert standing.state is State.OPEN
    assert standing.channel == "decline"
    assert 5 <= verdicts.index(Verdict.DISCARD) + 1 <= 8
    assert standing.since == road.now - 7 + verdicts.index(Verdict.DISCARD)


def test_an_account_that_never_worked_has_no_outage() -> None:
    road = Road()
    road.goes([NO] * 30)
    assert road.state() is State.CLOSED


def test_an_account_with_a_low_but_steady_rate_stays_closed() -> None:
    dice = random.Random(5)
    road = Road()
    road.goes([OK if dice.random() < 0.6 else NO for _ in range(4_000)])
    assert road.state() is State.CLOSED


def test_outcomes_are_held_while_an_outage_is_suspected_and_learned_after() -> None:
    road = living()
    assert road.goes([OK]) == [Verdict.LEARN]
    assert road.goes([NO]) == [Verdict.LEARN]
    assert road.goes([NO, NO, OK]) == [Verdict.HOLD] * 3
    assert road.goes([OK] * 6)[-1] is Verdict.LEARN


def test_four_straight_successes_close_and_the_first_of_them_begins_probing() -> None:
    road = living()
    road.goes([DOWN] * 3)
    road.goes([OK])
    assert road.state() is State.PROBING
    assert road.goes([OK, OK]) == [Verdict.DISCARD] * 2
    assert road.state() is State.PROBING
    road.goes([OK])
    assert road.state() is State.CLOSED
    assert road.goes([OK]) == [Verdict.LEARN]


def test_a_failed_probe_takes_back_what_successes_proved() -> None:
    road = living()
    road.goes([NO] * 8)
    road.goes([OK, OK, OK, NO])
    assert road.state() is State.OPEN
    standing = road.breakers.standing("pac_1", "live/stripe")
    assert standing.succeeded == 3
    assert standing.failed >= 1
    road.goes([OK, OK, OK])
    assert road.state() is State.PROBING


def test_a_decline_answers_a_probe_of_an_account_that_did_not_answer() -> None:
    road = living()
    road.goes([DOWN] * 3)
    road.goes([OK, NO, OK, NO])
    assert road.state() is State.CLOSED


def test_outcomes_of_decisions_from_before_the_outage_neither_close_nor_reopen() -> None:
    road = living()
    early = road.now
    road.goes([NO] * 8)
    for _ in range(10):
        late = road.breakers.judge("pac_1", "live/stripe", OK, early, road.now)
        assert late is Verdict.DISCARD
    assert road.state() is State.OPEN
    during = road.now
    road.goes([OK] * 4)
    for _ in range(20):
        road.breakers.judge("pac_1", "live/stripe", NO, during, road.now)
    assert road.state() is State.CLOSED


def test_an_outage_does_not_become_the_healthy_rate() -> None:
    road, twin = living(), living()
    for _ in range(20):
        road.goes([NO] * 8)
        assert road.state() is State.OPEN
        road.goes([OK] * 4)
    assert road.goes([NO] * 8).index(Verdict.DISCARD) == twin.goes([NO] * 8).index(Verdict.DISCARD)


def test_one_merchants_declines_close_no_processor_to_the_others() -> None:
    road = living()
    for account in ("pac_2", "pac_3"):
        road.goes(healthy(100, seed=7), account)
    road.goes([NO] * 60, "pac_2")
    assert road.state("pac_2") is State.OPEN
    assert road.state("pac_3") is State.CLOSED
    assert not road.breakers.closes_all_of("live/stripe")


def test_a_processors_outage_is_told_from_single_payments_of_many_accounts() -> None:
    road = Road()
    for number in range(100):
        road.goes([OK], f"pac_{number}")
    for number in range(12):
        road.goes([NO], f"pac_{number}")
    assert road.breakers.closes_all_of("live/stripe")
    assert road.state("pac_99") is State.OPEN
    assert road.state("pac_99", "live/amazon_pay") is State.CLOSED


def test_when_the_processor_is_back_its_accounts_are_back_and_remember_no_suspicion() -> None:
    road = Road()
    for number in range(100):
        road.goes([OK], f"pac_{number}")
    for number in range(12):
        road.goes([NO], f"pac_{number}")
    road.goes([OK] * 4, "pac_50")
    assert road.state("pac_3") is State.CLOSED
    assert road.goes([OK], "pac_3") == [Verdict.LEARN]


def test_a_state_goes_on_where_it_was_left() -> None:
    road = living()
    road.goes([NO, NO, OK, NO])
    restored = Breakers()
    restored.restore(json.loads(json.dumps(road.breakers.state())))
    other = Road(restored, road.now)
    rest = [NO, OK, NO, NO, NO, NO, OK, OK, OK, OK, OK, NO]
    assert other.goes(rest) == road.goes(rest)
    assert restored.standings() == road.breakers.standings()


@pytest.mark.parametrize("state", [{}, {"accounts": [[1]], "models": []}, {"accounts": 3}])
def test_a_state_that_is_none_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="state of breakers"):
        Breakers().restore(state)


class Fleet:
    """Replicas that share one account's payments and exchange rows as bytes."""

    def __init__(self, size: int, tuning: BreakerTuning | None = None) -> None:
        self.replicas = [Breakers(tuning, owner=f"r{i}") for i in range(size)]
        self.now = 1_000.0

    def goes(self, kinds: Iterable[Kind], *, every: int = 5) -> None:
        for number, kind in enumerate(kinds):
            self.now += 1
            replica = self.replicas[number % len(self.replicas)]
            replica.judge("pac_1", "live/stripe", kind, self.now, self.now)
            if number % every == every - 1:
                self.exchange()

    def exchange(self) -> None:
        rows = [replica.share(self.now).encode() for replica in self.replicas]
        for replica in self.replicas:
            replica.take([Sightings.decode(row) for row in rows])

    def states(self) -> set[State]:
        return {replica.standing("pac_1", "live/stripe").state for replica in self.replicas}


def test_replicas_open_together_after_few_payments_of_the_whole_fleet() -> None:
    fleet = Fleet(8)
    fleet.goes([*healthy(400), *[OK] * 10])
    assert fleet.states() == {State.CLOSED}
    fleet.goes([NO] * 15)
    assert fleet.states() == {State.OPEN}


def test_replicas_close_together_after_four_successes_anywhere() -> None:
    fleet = Fleet(8)
    fleet.goes([*healthy(400), *[OK] * 10, *[NO] * 15])
    fleet.goes([OK] * 5)
    assert fleet.states() == {State.CLOSED}


def test_a_replica_that_joins_in_an_outage_hears_of_it_at_once() -> None:
    fleet = Fleet(4)
    fleet.goes([*healthy(400), *[NO] * 20])
    fresh = Breakers(owner="fresh")
    fresh.take([fleet.replicas[0].share(fleet.now)])
    assert fresh.standing("pac_1", "live/stripe").state is State.OPEN


def test_a_replica_that_joins_takes_no_old_evidence_for_news() -> None:
    one, fresh = Breakers(owner="one"), Breakers(owner="fresh")
    Road(one).goes([OK] * 40 + [NO] * 3)
    fresh.take([one.share(1_043.0)])
    assert fresh.standing("pac_1", "live/stripe").declines == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_read_twice_late_or_out_of_order_change_nothing(data: st.DataObject) -> None:
    one, reader, careless = Road(Breakers(owner="one")), Breakers(owner="a"), Breakers(owner="a")
    one.goes([OK] * 40)
    rows = [one.breakers.share(one.now)]
    for kind in data.draw(st.lists(st.sampled_from([OK, OK, NO, DOWN]), max_size=12)):
        one.goes([kind])
        rows.append(one.breakers.share(one.now))
    for number, row in enumerate(rows):
        reader.take([row])
        again = data.draw(st.lists(st.integers(0, number), max_size=3))
        careless.take([row, *(rows[i] for i in again), row])
    assert careless.standings() == reader.standings()


def test_a_replica_ignores_its_own_row() -> None:
    road = living()
    road.goes([NO, NO])
    before = road.breakers.standing("pac_1", "live/stripe")
    road.breakers.take([road.breakers.share(road.now)])
    road.goes([])
    road.breakers.take([road.breakers.share(road.now)])
    assert road.breakers.standing("pac_1", "live/stripe") == before


def test_an_account_that_was_quiet_for_long_is_left_out_of_the_row() -> None:
    road = living()
    assert [line.account for line in road.breakers.share(road.now + 59).lines] == ["pac_1"]
    assert road.breakers.share(road.now + 61).lines == ()


@pytest.mark.parametrize(
    "row", [b"", b"{}", b"[]", b'{"owner":"a","epoch":1,"revision":1,"lines":[[1,2]]}', b"\xff"]
)
def test_bytes_that_are_no_row_are_refused(row: bytes) -> None:
    with pytest.raises(ValueError, match="no row of sightings"):
        Sightings.decode(row)
