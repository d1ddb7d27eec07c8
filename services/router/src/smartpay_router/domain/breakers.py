"""The breakers: they tell within a few payments that an account stopped working, or works again.

Two CUSUM channels per account (Page 1954, "Continuous inspection schemes"): a sum of log-likelihood
ratios of an outage against health that never falls below 0 and opens the breaker at a threshold.
One counts technical failures, whose healthy rate is known; the other counts everything that is not
a success, against the account's own slowly learned rate. A processor's breaker adds up the same
ratios over all its accounts, but no account brings more than a share of what opens it: one
merchant's bad payers must not close the processor to everybody else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from smartpay_router.domain.breaker_line import Line, brought
from smartpay_router.domain.sightings import Sighting, Sightings, Tally


class Kind(StrEnum):
    """How a try ended, as far as an account's health goes."""

    SUCCESS = "success"
    DECLINE = "decline"
    TECHNICAL = "technical"


class State(StrEnum):
    """Whether an account may stand first."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Verdict(StrEnum):
    """What an outcome is to the learner."""

    LEARN = "learn"
    HOLD = "hold"
    DISCARD = "discard"
    UNJUDGED = "unjudged"


TECHNICAL = "technical"
DECLINES = "decline"


@dataclass(frozen=True, slots=True)
class BreakerTuning:
    """The breakers' numbers; `bench/router_outages.py` measures what they buy.

    Attributes:
        trip: sum of declines that opens, in nats. With the rest as it is a drop from .95 to .20
            is told in 7.6 payments on average, and one healthy payment in 850,000 opens.
        technical_trip: the same for technical failures; above two failures, whatever else.
        technical_healthy: share of technical failures in health.
        technical_outage: share of technical failures in the outage looked for.
        outage_share: the success looked for, as a share of the healthy one. A loss much smaller
            than half is the learner's to find.
        start_rate: success of a processor before anything is known.
        start_outcomes: how many outcomes that first belief, or a processor's rate for its new
            account, weighs.
        rate_min: healthy success is never believed below; there would be no drop left to see.
        rate_max: nor above; two declines in a row would weigh too much.
        memory_outcomes: how many outcomes the healthy rate averages over. Longer than any outage
            takes to be told, or the outage would become the healthy rate.
        fresh_seconds: how long an account without outcomes stays in the replicas' rows; they have
            to be exchanged more often. Bounds a row to the accounts that are busy.
        hold_from: part of a threshold from which outcomes are held back from the learner. Single
            declines are learned at once: holding them too cost more than it kept out.
        known_outcomes: declines open no account with fewer: what never worked has no outage.
        closing_probes: straight successes that close; a failure takes back what it weighs.
        account_share: the part of a processor's threshold that one account can bring.
    """

    trip: float = 12.0
    technical_trip: float = 13.5
    technical_healthy: float = 0.005
    technical_outage: float = 0.8
    outage_share: float = 0.5
    start_rate: float = 0.9
    start_outcomes: float = 20
    rate_min: float = 0.3
    rate_max: float = 0.97
    memory_outcomes: float = 2000
    known_outcomes: int = 30
    fresh_seconds: float = 60.0
    hold_from: float = 0.35
    closing_probes: float = 4
    account_share: float = 0.5


@dataclass(frozen=True, slots=True)
class Standing:
    """What a breaker says of an account.

    Attributes:
        state: closed, open, or probing when the latest probes succeeded.
        since: when it last opened or closed, in seconds; 0 when it never did.
        channel: the channel that opened it; empty while closed.
        technical: the technical channel's sum, in nats.
        declines: the declines channel's sum, in nats.
        succeeded: probes that succeeded since it opened.
        failed: probes that failed since it opened.
        suspicion: how far it is on the way to open, 0 to 1; 1 when it is.
    """

    state: State
    since: float
    channel: str
    technical: float
    declines: float
    succeeded: int = 0
    failed: int = 0
    suspicion: float = 0.0

    def alive(self) -> float:
        """Answers the success to be believed of an open account: Laplace's rule, on its probes."""
        return (1 + self.succeeded) / (2 + self.succeeded + self.failed)


class Breakers:
    """All breakers of one replica; an account's counts as open when its processor's is."""

    def __init__(
        self, tuning: BreakerTuning | None = None, owner: str = "one", epoch: int = 0
    ) -> None:
        self._tuning = tuning = tuning or BreakerTuning()
        healthy, outage = tuning.technical_healthy, tuning.technical_outage
        self._technical_up = math.log(outage / healthy)
        self._technical_down = math.log((1 - outage) / (1 - healthy))
        self._declines_down = math.log(tuning.outage_share)
        self._accounts: dict[tuple[str, str], Line] = {}
        self._models: dict[str, Line] = {}
        self._owner = owner
        self._epoch = epoch
        self._revision = 0
        self._seen: dict[str, Sightings] = {}

    def judge(
        self, account: str, model: str, kind: Kind | None, decided_at: float, at: float
    ) -> Verdict:
        """Takes an outcome in and says what the learner may make of it.

        HOLD while an outage is suspected; DISCARD in one, and for outcomes of decisions from
        before the breaker last opened or closed; LEARN when there is no suspicion, or no more;
        UNJUDGED without a kind.

        Args:
            account: the account tried.
            model: its processor; the account's own name when it shares with nobody.
            kind: how the try ended; None when that says nothing of the account's health.
            decided_at: when the decision fell, in seconds.
            at: the present, in seconds.
        """
        return next(self.judge_many(((account, model),), (kind,), (decided_at,), (at,)))

    def judge_many(
        self,
        arms: Iterable[tuple[str, str]],
        kinds: Iterable[Kind | None],
        decided_at: Iterable[float],
        at: Iterable[float],
    ) -> Iterator[Verdict]:
        """Judges outcomes in their order, each when its verdict is asked for, as `judge` does.

        What one verdict leads to may so be done before the next. One loop, as a third of what a
        replay of the log takes is spent here.

        Args:
            arms: accounts and their models.
            kinds: how the tries ended.
            decided_at: when the decisions fell, in seconds.
            at: when the outcomes came, in seconds.
        """
        tuning, steps_of_success = self._tuning, (self._technical_down, self._declines_down)
        success, learn = Kind.SUCCESS, Verdict.LEARN
        for arm, kind, decided, now in zip(arms, kinds, decided_at, at, strict=True):
            if kind is None:
                yield Verdict.UNJUDGED
                continue
            line, pool = self._lines(arm)
            if decided < line.changed_at or (pool is not None and decided < pool.changed_at):
                yield Verdict.DISCARD
                continue
            tally = line.tally
            if now - tally.touched_at > tuning.fresh_seconds:
                tally = line.tally = Tally(started=now)
            tally.touched_at = now
            technical, declines = steps_of_success if kind is success else self._steps(line, kind)
            if line.channel or (pool is not None and pool.channel):
                self._probe(line, pool, technical, declines, now)
                yield Verdict.DISCARD
                continue
            tally.technical += technical
            tally.declines += declines
            tally.outcomes += 1
            tally.successes += kind is success
            self._add(line, pool, arm[0], technical, declines, int(kind is success), 1, now)
            if line.channel or (pool is not None and pool.channel):
                yield Verdict.DISCARD
            else:
                yield learn if line.quiet() else self._suspected(line)

    def standing(self, account: str, model: str) -> Standing:
        """Says how an account stands; of account and processor the open one speaks."""
        line = self._accounts.get((account, model), _UNSEEN)
        pool = self._models.get(model)
        if pool is not None and pool.channel and not line.channel:
            line = pool
        if not line.channel:
            if line.quiet():
                return Standing(State.CLOSED, line.changed_at, "", 0.0, 0.0)
            technical, declines = line.technical, line.declines
            suspicion = max(technical / self._tuning.technical_trip, declines / self._tuning.trip)
            return Standing(
                State.CLOSED, line.changed_at, "", technical, declines, suspicion=suspicion
            )
        return Standing(
            State.PROBING if line.proof > 0 else State.OPEN,
            line.changed_at,
            line.channel,
            line.technical,
            line.declines,
            line.succeeded,
            line.failed,
            suspicion=1.0,
        )

    def standings(self) -> Mapping[tuple[str, str], Standing]:
        """Says how every known account stands, by account and model."""
        return {arm: self.standing(*arm) for arm in self._accounts}

    def closes_all_of(self, model: str) -> bool:
        """Tells whether a processor's own breaker is open, and so all its accounts' are."""
        pool = self._models.get(model)
        return pool is not None and bool(pool.channel)

    def changed_at(self, account: str, model: str) -> float:
        """Says when the account's or its processor's breaker last opened or closed."""
        line = self._accounts.get((account, model), _UNSEEN)
        return max(line.changed_at, self._models.get(model, _UNSEEN).changed_at)

    def share(self, at: float) -> Sightings:
        """Answers this replica's row for the others: what was busy lately or is open."""
        self._revision += 1
        since = at - self._tuning.fresh_seconds
        lines = [
            Sighting(model, account, line.channel, line.changed_at, replace(line.tally))
            for (account, model), line in self._accounts.items()
            if line.channel or line.tally.touched_at >= since or line.changed_at >= since
        ]
        lines += [
            Sighting(model, "", pool.channel, pool.changed_at, Tally())
            for model, pool in self._models.items()
            if pool.channel or pool.changed_at >= since
        ]
        return Sightings(self._owner, self._epoch, self._revision, tuple(lines))

    def take(self, rows: Iterable[Sightings]) -> None:
        """Takes other replicas' rows in; own, old and repeated ones change nothing.

        Of a replica or a life of it seen for the first time only what is open is taken: how much
        of its sums is news can't be told. Evidence that arrives in steps of several payments is
        judged in such steps.
        """
        for row in rows:
            seen = self._seen.get(row.owner)
            if row.owner == self._owner or (
                seen is not None and (row.epoch, row.revision) <= (seen.epoch, seen.revision)
            ):
                continue
            self._seen[row.owner] = row
            known = seen is not None and seen.epoch == row.epoch
            before = {(s.model, s.account): s.tally for s in seen.lines} if known and seen else {}
            for sighting in row.lines:
                self._follow(sighting)
                if known and sighting.account:
                    last = before.get((sighting.model, sighting.account))
                    if last is None or last.started != sighting.tally.started:
                        last = Tally()
                    self._count(sighting, last)

    def state(self) -> dict[str, Any]:
        """Answers everything that judging depends on, as JSON can hold it."""
        return {
            "accounts": [[m, a, asdict(line)] for (a, m), line in self._accounts.items()],
            "models": [[key, asdict(line)] for key, line in self._models.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` answered.

        Raises:
            ValueError: when it is no such state; nothing was changed then.
        """
        try:
            accounts = {(a, m): Line.of(values) for m, a, values in state["accounts"]}
            models = {m: Line.of(values) for m, values in state["models"]}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("this is no state of breakers") from error
        self._accounts, self._models = accounts, models

    def _follow(self, seen: Sighting) -> None:
        """Opens or closes what another replica opened or closed later than anything known here."""
        if not seen.changed_at:
            return
        if seen.account:
            line, _ = self._lines((seen.account, seen.model))
        else:
            line = self._models.setdefault(seen.model, self._new_line(None))
        if seen.changed_at > line.changed_at and bool(seen.channel) != bool(line.channel):
            line.change(seen.channel, seen.changed_at)

    def _count(self, seen: Sighting, last: Tally) -> None:
        """Takes in what another replica counted since its last row."""
        now = seen.tally
        line, pool = self._lines((seen.account, seen.model))
        if line.channel or (pool is not None and pool.channel):
            probes = now.succeeded - last.succeeded, now.failed - last.failed
            for each in (line, pool):
                if each is not None and each.channel and any(probes):
                    self._prove(each, now.proof - last.proof, *probes, now.touched_at)
        elif now.outcomes > last.outcomes:
            self._add(
                line,
                pool,
                seen.account,
                now.technical - last.technical,
                now.declines - last.declines,
                now.successes - last.successes,
                now.outcomes - last.outcomes,
                now.touched_at,
            )

    def _lines(self, arm: tuple[str, str]) -> tuple[Line, Line | None]:
        """Answers an account's line, which follows its processor's changes, and the processor's."""
        account, model = arm
        pool = None
        if model != account:
            pool = self._models.get(model)
            if pool is None:
                pool = self._models[model] = self._new_line(None)
        line = self._accounts.get(arm)
        if line is None:
            line = self._accounts[account, model] = self._new_line(pool)
        if pool is not None and line.reset_at != pool.changed_at:
            line.calm()
            line.reset_at = pool.changed_at
        return line, pool

    def _new_line(self, pool: Line | None) -> Line:
        rate = self._tuning.start_rate if pool is None else pool.rate_at_zero
        line = Line(rate=rate, weight=self._tuning.start_outcomes, rate_at_zero=rate)
        if pool is not None:
            line.reset_at = pool.changed_at
        return line

    def _steps(self, line: Line, kind: Kind) -> tuple[float, float]:
        """Weighs an outcome in both channels, in nats; above 0 speaks for an outage."""
        tuning = self._tuning
        technical = self._technical_up if kind is Kind.TECHNICAL else self._technical_down
        if kind is Kind.SUCCESS:
            return technical, self._declines_down
        rate = min(tuning.rate_max, max(tuning.rate_min, line.rate))
        return technical, math.log((1 - tuning.outage_share * rate) / (1 - rate))

    def _add(
        self,
        line: Line,
        pool: Line | None,
        account: str,
        technical: float,
        declines: float,
        successes: int,
        outcomes: int,
        at: float,
    ) -> None:
        """Adds evidence to an account and its processor, both closed, and opens what must open.

        Most outcomes are successes where nothing is suspected: the replay of a log lives on that
        being short.
        """
        tuning = self._tuning
        was_known = line.outcomes >= tuning.known_outcomes
        line.outcomes += outcomes
        if technical > 0 or line.technical:
            line.technical = max(0.0, line.technical + technical)
        if declines > 0 or line.declines:
            known = line.outcomes >= tuning.known_outcomes
            line.declines = max(0.0, line.declines + declines) if was_known or not known else 0.0
        line.learn(successes, outcomes, tuning.memory_outcomes)
        if line.technical >= tuning.technical_trip:
            line.change(TECHNICAL, at)
        elif was_known and line.declines >= tuning.trip:
            line.change(DECLINES, at)
        if pool is None:
            return
        share = tuning.account_share
        if technical > 0 or pool.technical:
            cap = share * tuning.technical_trip
            pool.technical = brought(pool.technical, pool.technical_of, account, technical, cap)
        if declines > 0 or pool.declines:
            cap = share * tuning.trip
            pool.declines = brought(pool.declines, pool.declines_of, account, declines, cap)
        pool.learn(successes, outcomes, tuning.memory_outcomes)
        if pool.technical >= tuning.technical_trip:
            pool.change(TECHNICAL, at)
        elif pool.declines >= tuning.trip:
            pool.change(DECLINES, at)

    def _probe_step(self, line: Line, technical: float, declines: float) -> float:
        """Weighs a probe in the channel that opened; a decline is an answer to a technical one."""
        if line.channel == TECHNICAL:
            return technical / self._technical_down
        return declines / self._declines_down

    def _probe(
        self, line: Line, pool: Line | None, technical: float, declines: float, at: float
    ) -> None:
        """Takes an outcome of an open account or processor as proof of its health, or against it.

        The last one's step is told to the other replicas.
        """
        step = 0.0
        for each in (line, pool):
            if each is not None and each.channel:
                step = self._probe_step(each, technical, declines)
                self._prove(each, step, int(step > 0), int(step <= 0), at)
        tally = line.tally
        tally.proof += step
        tally.succeeded += step > 0
        tally.failed += step <= 0

    def _prove(self, line: Line, step: float, succeeded: int, failed: int, at: float) -> None:
        line.proof = max(0.0, line.proof + step)
        line.succeeded += succeeded
        line.failed += failed
        if line.proof >= self._tuning.closing_probes:
            line.change("", at)

    def _suspected(self, line: Line) -> Verdict:
        """Says what to do with an outcome while there is evidence of an outage.

        What can't open yet is no suspicion: a new account's failures are what there is to learn.
        """
        known = line.outcomes >= self._tuning.known_outcomes
        suspicion = max(
            line.technical / self._tuning.technical_trip,
            line.declines / self._tuning.trip if known else 0.0,
        )
        return Verdict.HOLD if suspicion > self._tuning.hold_from else Verdict.LEARN


_UNSEEN = Line(rate=0.0, weight=0.0, rate_at_zero=0.0)
