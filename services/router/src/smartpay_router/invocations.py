"""Serves a learner as a SageMaker container does: `python -m smartpay_router.invocations serve`.

The contract is SageMaker's (custom inference code with hosting services): GET /ping answers 200
once the learner is loaded, POST /invocations estimates, port 8080, /opt/ml/model holds what was
learned: one `*.totals` file per replica, as `Totals.encode` writes it. `export STORE FOLDER` makes
them out of a router's store, also of one that is serving.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.estimates_wire import CONTENT_TYPE, VERSION_PREFIX, answer, asked
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.context import CHARGE_SCHEMA
from smartpay_router.domain.learner import Learner
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.totals import Totals

MODEL_FOLDER = "/opt/ml/model"
PORT = 8080
BODY_BYTES_MAX = 64 * 1024
"""A question has some hundred numbers."""

_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_IDLE_SECONDS = 75  # longer than the platform keeps a connection, so that it closes first


def load(folder: Path) -> LinUcb:
    """Builds the learner out of what replicas learned.

    Raises:
        ValueError: when the folder holds no totals, or some that do not belong together.
    """
    totals = [Totals.decode(path.read_bytes()) for path in sorted(folder.glob("*.totals"))]
    if not totals:
        raise ValueError(f"{folder} holds no *.totals file")
    tuning = Tuning(memory_seconds=totals[0].memory_seconds)
    learner = LinUcb(CHARGE_SCHEMA, tuning, owner="endpoint")
    learner.share(totals)
    return learner


def server_of(learner: Learner, address: tuple[str, int]) -> ThreadingHTTPServer:
    """Makes the HTTP server of one learner, bound and not yet serving."""
    one_at_a_time = Lock()  # a learner is for one thread, and an estimate takes microseconds

    class Invocations(BaseHTTPRequestHandler):
        """Answers the container contract's two requests."""

        protocol_version = "HTTP/1.1"
        timeout = _IDLE_SECONDS

        def do_GET(self) -> None:
            """Says that the container is healthy."""
            self._answer(HTTPStatus.OK if self.path == "/ping" else HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            """Estimates the arms of one decision."""
            try:
                length = int(self.headers.get("Content-Length", ""))
            except ValueError:
                length = -1
            if not 0 <= length <= BODY_BYTES_MAX:
                # What follows can't be told from the next request.
                self.close_connection = True
                self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            body = self.rfile.read(length)
            if self.path != "/invocations":
                self._answer(HTTPStatus.NOT_FOUND)
            elif self.headers.get("Content-Type") != CONTENT_TYPE:
                self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
            elif self.headers.get(_ATTRIBUTES) != VERSION_PREFIX + learner.version:
                self._answer(HTTPStatus.CONFLICT)
            else:
                self._estimate(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps quiet: the platform logs calls, and bodies are merchants' data."""

        def _estimate(self, body: bytes) -> None:
            try:
                given = asked(body)
                with one_at_a_time:
                    estimates = learner.estimates(given.arms, given.values, given.at)
            except ValueError:
                self._answer(HTTPStatus.BAD_REQUEST)
                return
            self._answer(HTTPStatus.OK, answer(estimates))

        def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.send_header(_ATTRIBUTES, VERSION_PREFIX + learner.version)
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(address, Invocations)


async def export(path: Path, folder: Path) -> int:
    """Writes what each replica of a router's store has learned; answers how many there were.

    Raises:
        ValueError: when there is no such store.
    """
    if not path.is_file():
        raise ValueError(f"there is no store {path}")
    store = await SqliteStore.open(path, MIGRATIONS)
    try:
        states = await SqliteReplicas(store).states()
    finally:
        await store.close()
    for number, state in enumerate(states):
        (folder / f"{number:04}.totals").write_bytes(state.totals)
    return len(states)


def serve() -> None:
    """Loads the learner and serves until SIGTERM."""
    learner = load(Path(os.environ.get("ROUTER_MODEL_FOLDER", MODEL_FOLDER)))
    # A container has no loopback to the platform; only SageMaker's network reaches it.
    host = os.environ.get("ROUTER_INVOCATIONS_HOST", "0.0.0.0")
    server = server_of(learner, (host, int(os.environ.get("SAGEMAKER_BIND_TO_PORT", PORT))))
    # From a thread of its own: shutdown waits for the loop that the signal interrupts.
    signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


def main() -> None:
    """Serves or exports; exits with 78 (EX_CONFIG) when there is nothing good to do it with."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    exporting = commands.add_parser("export")
    exporting.add_argument("store", type=Path)
    exporting.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    try:
        if chosen.command == "serve":
            serve()
        else:
            print(asyncio.run(export(chosen.store, chosen.folder)), "totals exported")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"invocations: {error}\n")
        sys.exit(os.EX_CONFIG)


if __name__ == "__main__":
    main()
