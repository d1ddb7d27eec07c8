"""Scores on a SageMaker endpoint, and here whenever the endpoint does not answer at once.

One call per micro-batch, because the way there costs more than the model:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
Only the model is remote. Features, calibration, reasons and verdicts stay here, so the endpoint
keeps nothing, and what it says is checked against the very bundle that was loaded here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from smartpay_chassis.settings import SettingsError
from smartpay_fraud.adapters.matrix_wire import CONTENT_TYPE, VERSION_PREFIX, matrix, packed
from smartpay_fraud.adapters.serving_models import LocalModel
from smartpay_fraud.domain.graph import MessageWeights
from smartpay_fraud.domain.models import Inference
from smartpay_fraud.domain.verdict import Calibration, Costs

log = structlog.get_logger()

CONNECT_SECONDS, READ_SECONDS = 0.010, 0.040
"""Ten times a call within a region; beyond it the answer here is sooner there."""

_REST_SECONDS = 0.010  # for what neither limit bounds: finding the address, waiting for a thread

CALLS_MAX = 4
"""Calls at once, one thread each; the micro-batcher has as many lanes."""

FAILURES_MAX = 3
"""Failures in a row that open the breaker: one is chance, three are an outage."""

PAUSE_SECONDS = 5.0
"""How long an open breaker asks nobody, before it lets one call try."""


class Breaker:
    """Stops asking an endpoint that does not answer; lets one call try now and then.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None

    @property
    def open(self) -> bool:
        """Whether calls are kept away."""
        return self._open_until is not None

    def admits(self) -> bool:
        """Whether a call may go out now; after the pause the first one is the trial."""
        if self._open_until is None:
            return True
        if self._clock() < self._open_until:
            return False
        # Until the trial is back, everybody else still waits.
        self._open_until = self._clock() + PAUSE_SECONDS
        return True

    def succeeded(self) -> None:
        """Closes."""
        self._failures, self._open_until = 0, None

    def failed(self) -> None:
        """Counts; opens at the limit."""
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            self._open_until = self._clock() + PAUSE_SECONDS


class EndpointClient:
    """Invokes one endpoint by boto3, in threads of its own, without retries.

    Args:
        endpoint: its name.
        connect_seconds: how long a connection may take.
        read_seconds: how long each part of the answer may take.
        options: boto3's own, for instance `region_name`.

    Raises:
        SettingsError: boto3 is not installed, or is not told enough to call.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        **options: Any,  # noqa: ANN401 - boto3's own
    ) -> None:
        try:
            # Only where models live in AWS.
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise SettingsError(
                "FRAUD_ENDPOINT_NAME: it needs boto3; install the service's extra `aws`."
            ) from None
        config = Config(  # type: ignore[no-untyped-call]
            connect_timeout=connect_seconds,
            read_timeout=read_seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=CALLS_MAX,
        )
        self.endpoint = endpoint
        self._call_seconds = connect_seconds + read_seconds + _REST_SECONDS
        try:
            self._client: Any = boto3.client(  # type: ignore[no-untyped-call]
                "sagemaker-runtime", config=config, **options
            )
        except BotoCoreError as error:
            raise SettingsError(
                f"FRAUD_ENDPOINT_NAME: boto3 can't be set up ({type(error).__name__}); "
                "give AWS_REGION and credentials."
            ) from None
        self._threads = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="sagemaker")

    async def invoke(self, body: bytes, version: str) -> bytes:
        """Sends a body to the model of this version; whatever goes wrong is raised."""
        async with asyncio.timeout(self._call_seconds):
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._invoke, body, version
            )

    async def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False)

    def _invoke(self, body: bytes, version: str) -> bytes:
        answer = self._client.invoke_endpoint(
            EndpointName=self.endpoint,
            ContentType=CONTENT_TYPE,
            Accept=CONTENT_TYPE,
            CustomAttributes=VERSION_PREFIX + version,
            Body=body,
        )
        if answer.get("CustomAttributes") != VERSION_PREFIX + version:
            raise ValueError("the endpoint serves another model")
        return bytes(answer["Body"].read())


class Remote:
    """The way to the endpoint, shared by every champion that comes and goes.

    Attributes:
        calls: invocations that were tried.
        fallbacks: batches scored here instead.
    """

    def __init__(self, client: EndpointClient, breaker: Breaker | None = None) -> None:
        self.client = client
        self.breaker = breaker or Breaker()
        self.calls = 0
        self.fallbacks = 0


class SagemakerModel:
    """Scores on the endpoint and explains here.

    Args:
        local: the same bundle in this process; answers whenever the endpoint does not.
        remote: the way there.
    """

    def __init__(self, local: LocalModel, remote: Remote) -> None:
        self.local = local
        self._remote = remote

    @property
    def version(self) -> str:
        """Names the bundle, which is the same at both ends."""
        return self.local.version

    @property
    def calibration(self) -> Calibration:
        """Turns its margins into probabilities."""
        return self.local.calibration

    @property
    def costs(self) -> Costs:
        """The costs it was shipped with."""
        return self.local.costs

    @property
    def weights(self) -> MessageWeights | None:
        """How it reads the graph; None when it does not."""
        return self.local.weights

    async def infer(self, rows: NDArray[np.float32], graph: NDArray[np.float32]) -> Inference:
        """Scores there, or here when the breaker is open or the call fails; never twice there."""
        remote = self._remote
        if remote.breaker.admits():
            remote.calls += 1
            try:
                inference = await self._ask(rows, graph)
            except Exception as error:  # whatever happened there, the answer here is good
                remote.breaker.failed()
                log.warning(
                    "remote model failed",
                    endpoint=remote.client.endpoint,
                    error=type(error).__name__,
                    breaker_open=remote.breaker.open,
                )
            else:
                remote.breaker.succeeded()
                return inference
        remote.fallbacks += 1
        return await self.local.infer(rows, graph)

    async def explain(self, stack: NDArray[np.float32]) -> NDArray[np.float64]:
        """Explains here: the tables need what the endpoint answered and nothing else."""
        return await self.local.explain(stack)

    async def _ask(self, rows: NDArray[np.float32], graph: NDArray[np.float32]) -> Inference:
        bundle = self.local.bundle
        sent = np.concatenate([rows, graph], axis=1) if bundle.weights else rows
        said = matrix(await self._remote.client.invoke(packed(sent), self.version), np.float64)
        columns = said[:, 1:].astype(np.float32)
        stack = bundle.stack(rows, columns)
        if len(said) != len(rows) or stack.shape[1] != bundle.columns:
            raise ValueError("the endpoint's answer has another shape")
        if not np.isfinite(said).all():
            raise ValueError("the endpoint's answer holds what is no number")
        return Inference(said[:, 0], stack)
