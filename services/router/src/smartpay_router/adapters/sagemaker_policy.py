"""Estimates of a SageMaker endpoint, and those made here whenever it does not answer at once.

Only the estimates are remote. Eligibility, breakers, exploration and propensities stay here, and
the learner here goes on learning, so that it can take over at any moment:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
A ranking is made without waiting for anybody, so the server asks first, and hands the estimates to
`Steering.rank`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import structlog

from smartpay_chassis.settings import SettingsError
from smartpay_router.adapters.estimates_wire import (
    CONTENT_TYPE,
    VERSION_PREFIX,
    answered,
    question,
)
from smartpay_router.domain.learner import Arm, Estimates, Learner
from smartpay_router.domain.schema import Values

log = structlog.get_logger()

CONNECT_SECONDS, READ_SECONDS = 0.010, 0.040
"""Ten times a call within a region; a payer waits for it, and an answer here takes microseconds."""

_REST_SECONDS = 0.010  # for what neither limit bounds: finding the address, waiting for a thread

CALLS_MAX = 16
"""Calls at once, one thread each: some 1,000 decisions a second. The next one is made here, for
waiting in a queue would cost more than the endpoint knows better."""

FAILURES_MAX = 3
"""Failures in a row that open the breaker: one is chance, three are an outage."""

PAUSE_SECONDS = 5.0
"""How long an open breaker asks nobody, before it lets one call try."""


class Endpoint(Protocol):
    """The way to a remote learner."""

    @property
    def name(self) -> str:
        """Names the endpoint in the log."""
        ...

    async def invoke(self, body: bytes, version: str) -> bytes:
        """Asks the learner of this version; whatever goes wrong is raised."""
        ...


class BusyError(Exception):
    """As many calls as may be are under way; that says nothing about the endpoint."""


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


class SagemakerEndpoint:
    """Invokes one endpoint by boto3, in threads of its own, without retries.

    Args:
        name: the endpoint's name.
        connect_seconds: how long a connection may take.
        read_seconds: how long each part of the answer may take.
        options: boto3's own, for instance `region_name`.

    Raises:
        SettingsError: boto3 is not installed, or is not told enough to call.
    """

    def __init__(
        self,
        name: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        **options: Any,  # noqa: ANN401 - boto3's own
    ) -> None:
        try:
            # Only where a learner lives in AWS.
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise SettingsError(
                "ROUTING_ENDPOINT_NAME: it needs boto3; install the service's extra `aws`."
            ) from None
        config = Config(  # type: ignore[no-untyped-call]
            connect_timeout=connect_seconds,
            read_timeout=read_seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=CALLS_MAX,
        )
        self._name = name
        self._call_seconds = connect_seconds + read_seconds + _REST_SECONDS
        try:
            self._client: Any = boto3.client(  # type: ignore[no-untyped-call]
                "sagemaker-runtime", config=config, **options
            )
        except BotoCoreError as error:
            raise SettingsError(
                f"ROUTING_ENDPOINT_NAME: boto3 can't be set up ({type(error).__name__}); "
                "give AWS_REGION and credentials."
            ) from None
        self._threads = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="sagemaker")
        self._under_way: set[Future[bytes]] = set()

    @property
    def name(self) -> str:
        """Names the endpoint in the log."""
        return self._name

    async def invoke(self, body: bytes, version: str) -> bytes:
        """Asks once; raises BusyError when all threads are taken, also by calls given up."""
        self._under_way = {call for call in self._under_way if not call.done()}
        if len(self._under_way) >= CALLS_MAX:
            raise BusyError
        call = self._threads.submit(self._invoke, body, version)
        self._under_way.add(call)
        async with asyncio.timeout(self._call_seconds):
            return await asyncio.wrap_future(call)

    async def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False)

    def _invoke(self, body: bytes, version: str) -> bytes:
        said = self._client.invoke_endpoint(
            EndpointName=self._name,
            ContentType=CONTENT_TYPE,
            Accept=CONTENT_TYPE,
            CustomAttributes=VERSION_PREFIX + version,
            Body=body,
        )
        if said.get("CustomAttributes") != VERSION_PREFIX + version:
            raise ValueError("the endpoint serves another learner")
        return bytes(said["Body"].read())


class SagemakerPolicy:
    """Asks the endpoint how the arms of one decision would do.

    Args:
        local: the learner here; answers whenever the endpoint does not.
        endpoint: the way there.
        breaker: keeps calls away from an endpoint that fails.

    Attributes:
        calls: invocations that were tried.
        fallbacks: decisions estimated here instead.
    """

    def __init__(self, local: Learner, endpoint: Endpoint, breaker: Breaker | None = None) -> None:
        self._local = local
        self._endpoint = endpoint
        self.breaker = breaker or Breaker()
        self.calls = 0
        self.fallbacks = 0

    async def ask(self, arms: Sequence[Arm], values: Values, at: float) -> Estimates:
        """Answers from there, or from here when the breaker is open or the call fails.

        Raises:
            ValueError: when the values do not fit the learner's schema.
        """
        if self.breaker.admits():
            self.calls += 1
            try:
                said = await self._endpoint.invoke(question(arms, values, at), self._local.version)
                estimates = answered(said, len(arms))
            except BusyError:
                pass
            except Exception as error:  # whatever happened there, the answer here is good
                self.breaker.failed()
                log.warning(
                    "remote learner failed",
                    endpoint=self._endpoint.name,
                    error=type(error).__name__,
                    breaker_open=self.breaker.open,
                )
            else:
                self.breaker.succeeded()
                return estimates
        self.fallbacks += 1
        return self._local.estimates(arms, values, at)
