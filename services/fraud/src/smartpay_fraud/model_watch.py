"""Watches where a model comes from and swaps it in while calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime

import structlog

from smartpay_fraud.adapters.bundle_source import BundleError, BundleSource
from smartpay_fraud.adapters.model_bundle import load
from smartpay_fraud.adapters.serving_models import LocalModel

log = structlog.get_logger()


@dataclass
class Reloads:
    """What became of the attempts to load a model beside the one that serves.

    Attributes:
        succeeded: swaps since the start; the first load is none.
        refused: bundles that could not serve.
        last_refusal: what was wrong with the last of them; "" if there was none.
        last_attempt: when the last attempt ended; None before the first.
    """

    succeeded: int = 0
    refused: int = 0
    last_refusal: str = ""
    last_attempt: datetime | None = None


class ModelWatch:
    """Keeps one seat taken by whatever its source holds.

    A new bundle is read, verified and run on its golden rows beside the old one; then one
    reference is swapped. Whatever goes wrong leaves the old model serving.

    Args:
        source: where the bundle comes from.
        thread: the models' one thread.
        clock: the service's clock.
    """

    def __init__(
        self, source: BundleSource, thread: Executor, clock: Callable[[], datetime]
    ) -> None:
        self.reloads = Reloads()
        self._source = source
        self._thread = thread
        self._clock = clock
        self._seen = ""
        self._version = ""
        self._trouble = ""

    async def first(self) -> LocalModel:
        """Loads the model to start with; raises BundleError rather than serve a bad one."""
        self._seen = await asyncio.to_thread(self._source.fingerprint)
        return await self._verified(await asyncio.to_thread(self._source.read))

    async def run(self, seat: Callable[[LocalModel], None], poll_seconds: float) -> None:
        """Looks for a new bundle for ever and seats it; stops only by cancellation."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.look(seat)

    async def look(self, seat: Callable[[LocalModel], None]) -> bool:
        """Looks once; answers whether a new model was seated."""
        before = self._version
        try:
            fingerprint = await asyncio.to_thread(self._source.fingerprint)
            if fingerprint == self._seen:
                return False
            files = await asyncio.to_thread(self._source.read)
            # From here on the bundle itself is to blame, and only another one is worth a try.
            self._seen = fingerprint
            model = await self._verified(files)
        except BundleError as error:
            self._refuse(str(error))
            return False
        except Exception as error:  # a hostile bundle must not stop the service either
            log.error("model watch failed", exc_info=error)
            self._refuse(f"it can't be read ({type(error).__name__})")
            return False
        self._trouble = ""
        if model.version == before:
            return False
        seat(model)
        self.reloads.succeeded += 1
        self.reloads.last_attempt = self._clock()
        log.info("model swapped", model_version=model.version, before=before)
        return True

    async def _verified(self, files: Mapping[str, bytes]) -> LocalModel:
        bundle = await asyncio.to_thread(load, files)
        self._version = bundle.version
        return LocalModel(bundle, self._thread, self._clock())

    def _refuse(self, why: str) -> None:
        # Told once: a place that can't be reached is asked again every few seconds.
        if why == self._trouble:
            return
        self._trouble = why
        log.warning("model refused; the old one keeps serving", why=why)
        self.reloads.refused += 1
        self.reloads.last_refusal = why
        self.reloads.last_attempt = self._clock()
