"""Runs one service: a Unix socket, health, interceptors, background work, and a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from pydantic import ValidationError

from smartpay_chassis.access import Rule, rules_of
from smartpay_chassis.channels import egress_channel
from smartpay_chassis.contract_check import warm_up
from smartpay_chassis.gauges import Gauges, serve_gauges
from smartpay_chassis.interceptors import CallInterceptor
from smartpay_chassis.merchants import Merchants, load_merchants
from smartpay_chassis.settings import ServiceSettings, SettingsError
from smartpay_chassis.telemetry import configure_logging

log = structlog.get_logger()

# With Python's own 700 some dozen calls in flight are enough to look through all they hold, again
# and again, for cycles that hardly any call makes; this many objects are some megabytes.
COLLECT_EVERY_OBJECTS = 20_000

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
Register = Callable[[Any, grpc.aio.Server], None]


class App:
    """What a service is joined from. `build` fills it; `run` serves it.

    Attributes:
        settings: the service's settings.
        merchants: the mounted table of merchants.
        gauges: what the service measures of itself.
    """

    def __init__(self, settings: ServiceSettings, merchants: Merchants) -> None:
        self.settings = settings
        self.merchants = merchants
        self.gauges = Gauges()
        self._servicers: list[tuple[Register, object, ServiceDescriptor]] = []
        self._background: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._on_stop: list[Callable[[], Awaitable[None]]] = []
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to all other services, opened when first asked for."""
        if self._channel is None:
            self._channel = egress_channel(self.settings.egress_socket)
        return self._channel

    def serve(self, register: Register, servicer: object, service: ServiceDescriptor) -> None:
        """Adds a servicer; `service` is its descriptor, where the access rules stand."""
        self._servicers.append((register, servicer, service))

    def background(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Adds work that runs beside the calls; if it ends by an error, the process stops."""
        self._background.append((name, work))

    def on_stop(self, close: Callable[[], Awaitable[None]]) -> None:
        """Adds what must be closed after the last call, in reverse order."""
        self._on_stop.append(close)

    def rules(self) -> dict[str, Rule]:
        """Answers the access rules of all servicers."""
        return rules_of(service for _, _, service in self._servicers)

    def make_server(self) -> grpc.aio.Server:
        """Makes the gRPC server with all servicers and interceptors, not yet bound."""
        rules = self.rules()
        for rule in rules.values():
            warm_up(rule.request_type)
        interceptor = CallInterceptor(
            rules,
            self.merchants,
            self.settings.environment,
            self.settings.concurrent_calls_max,
        )
        server = grpc.aio.server(
            interceptors=(interceptor,),
            options=[
                ("grpc.max_receive_message_length", self.settings.message_bytes_max),
                # gRPC's own limit of 8 KiB is less than a token of many groups takes, and would
                # be read as "too many calls".
                ("grpc.max_metadata_size", self.settings.metadata_bytes_max),
                ("grpc.absolute_max_metadata_size", self.settings.metadata_bytes_max),
            ],
        )
        for register, servicer, _ in self._servicers:
            register(servicer, server)
        return server

    async def close(self) -> None:
        """Closes what the service opened."""
        for close in reversed(self._on_stop):
            await close()
        if self._channel is not None:
            await self._channel.close()

    async def run_background(self) -> None:
        """Runs all background work until cancelled; raises what the first failure raised."""
        async with asyncio.TaskGroup() as group:
            for name, work in self._background:
                group.create_task(self._supervise(name, work))
            await asyncio.Event().wait()

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            log.exception("background work failed", work=name)
            raise


def spare_the_collector() -> None:
    """Takes what the start has made out of garbage collection, and collects less often from here.

    Modules, descriptors and models live as long as the process. Looking through them again each
    time costs calls milliseconds; see gc.freeze in Python's library reference.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY_OBJECTS, *gc.get_threshold()[1:])


def run(
    name: str,
    settings_type: type[SettingsT],
    build: Callable[[App, SettingsT], Awaitable[None]],
) -> None:
    """Runs a service until SIGTERM or SIGINT; the whole of a `__main__`.

    Exits with 78 (EX_CONFIG) when settings are wrong, `build` finds them so included, and 1 when
    background work failed, so that the supervisor can tell.
    """
    try:
        settings = settings_type.from_environment()
        configure_logging(name, settings.log_level, settings.debug)
        uvloop.run(_serve(settings, build))
    except SettingsError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(os.EX_CONFIG)


def _merchants(file: Path) -> Merchants:
    try:
        return load_merchants(file)
    except OSError as error:
        why = type(error).__name__
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
    raise SettingsError(f"SMARTPAY_MERCHANTS_FILE: the file it names can't be used ({why})")


async def _serve(settings: SettingsT, build: Callable[[App, SettingsT], Awaitable[None]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    with _only_one(settings.listen_socket):
        app = App(settings, _merchants(settings.merchants_file))
        await build(app, settings)
        server = app.make_server()
        spare_the_collector()
        checker = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checker, server)
        # The sidecar runs as the same user; nobody else may connect.
        mask = os.umask(0o077)
        server.add_insecure_port(f"unix:{settings.listen_socket.absolute()}")
        os.umask(mask)
        await server.start()
        gauges = await serve_gauges(app.gauges, settings.listen_socket)
        await checker.set("", health_pb2.HealthCheckResponse.SERVING)
        log.info("serving", socket=settings.listen_socket.name)
        background = asyncio.create_task(app.run_background())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({background, stop}, return_when=asyncio.FIRST_COMPLETED)
        failed = background.done()
        await checker.enter_graceful_shutdown()
        await server.stop(settings.drain_seconds)
        gauges.close()
        background.cancel()
        with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
            await background
        await app.close()
        log.info("stopped", failed=failed)
    if failed:
        sys.exit(1)


class _only_one:  # noqa: N801 - reads as the sentence it is
    """Holds a lock beside the socket: gRPC would silently steal a socket that is in use."""

    def __init__(self, socket: Path) -> None:
        self._path = socket.with_suffix(".lock")

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another process serves {self._path.stem} already; stop it first")

    def __exit__(self, *_: object) -> None:
        self._file.close()
