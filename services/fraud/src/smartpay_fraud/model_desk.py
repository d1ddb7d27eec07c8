"""Everything about the models in service: who they are, where they come from, how they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from smartpay_chassis.gauges import Gauges
from smartpay_fraud.adapters.sagemaker_models import Remote, SagemakerModel
from smartpay_fraud.adapters.serving_models import LocalModel
from smartpay_fraud.domain.drift import DriftReport, Level
from smartpay_fraud.domain.memory import Memory
from smartpay_fraud.domain.models import Lineup
from smartpay_fraud.domain.watching import Watching
from smartpay_fraud.drift_gauges import tell
from smartpay_fraud.model_watch import ModelWatch

log = structlog.get_logger()


@dataclass
class ModelDesk:
    """Keeps champion and challenger fresh, and reports on them.

    Attributes:
        memory: what must know which graph models are in use.
        lineup: who serves.
        watching: who looks on.
        champions: where the champion comes from.
        champion: the champion as loaded here, whether or not it scores elsewhere.
        challengers: where the challenger comes from; None without one.
        challenger: the challenger as loaded here.
        remote: the endpoint; None when the model runs here.
        clock: the service's clock.
    """

    memory: Memory
    lineup: Lineup
    watching: Watching
    champions: ModelWatch
    champion: LocalModel
    challengers: ModelWatch | None
    challenger: LocalModel | None
    remote: Remote | None
    clock: Callable[[], datetime]

    @classmethod
    async def open(
        cls,
        memory: Memory,
        champions: ModelWatch,
        challengers: ModelWatch | None,
        remote: Remote | None,
        watching: Watching,
        clock: Callable[[], datetime],
    ) -> ModelDesk:
        """Loads who serves first; raises BundleError rather than serve a bad model.

        A challenger that can't be loaded keeps nobody from being served: it is told and watched.
        """
        champion = await champions.first()
        lineup = Lineup(memory, _placed(champion, remote))
        desk = cls(memory, lineup, watching, champions, champion, challengers, None, remote, clock)
        if challengers:
            await challengers.look(desk.challenge)
        return desk

    def crown(self, champion: LocalModel) -> None:
        """Seats a new champion."""
        self.champion = champion
        self.lineup.crown(_placed(champion, self.remote))

    def challenge(self, challenger: LocalModel) -> None:
        """Seats a new challenger."""
        self.challenger = challenger
        self.lineup.challenge(challenger)

    async def keep_fresh(self, poll_seconds: float) -> None:
        """Swaps models in as they appear, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.champions.run(self.crown, poll_seconds))
            if self.challengers:
                group.create_task(self.challengers.run(self.challenge, poll_seconds))

    async def drift(self) -> DriftReport:
        """Compares what is scored now with the champion's training, in a thread."""
        now_ms = int(self.clock().timestamp() * 1000)
        reference = self.champion.bundle.reference
        return await asyncio.to_thread(self.watching.drift.report, reference, now_ms)

    async def keep_reporting(self, every_seconds: float, gauges: Gauges) -> None:
        """Tells log and gauges of drift and the comparison now and then, until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.report(gauges)

    async def report(self, gauges: Gauges) -> None:
        """Writes one line, a warning when something has moved, and the gauges."""
        drift, comparison = await self.drift(), self.watching.comparison
        tell(gauges, drift)
        write = log.info if drift.level is Level.STEADY else log.warning
        write(
            "model drift",
            level=drift.level.value,
            model_version=self.champion.version,
            transactions=drift.rows,
            score_psi=drift.score,
            furthest=[[each.feature, round(each.stability, 3)] for each in drift.features[:3]],
            unknown_entities_share=drift.unknown_entities,
            labelled_transactions=drift.labelled,
            calibration_error=drift.calibration_error,
            average_precision=drift.average_precision,
        )
        if self.challenger:
            log.info(
                "challenger",
                model_version=self.challenger.version,
                transactions=comparison.count,
                score_difference_mean=comparison.difference_mean,
                verdicts_agree_share=comparison.agreement,
                failures=comparison.failures,
                last_failure=comparison.last_failure,
            )


def _placed(champion: LocalModel, remote: Remote | None) -> LocalModel | SagemakerModel:
    return SagemakerModel(champion, remote) if remote else champion
