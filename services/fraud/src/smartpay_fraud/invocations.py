"""Serves a bundle as a SageMaker container does: `python -m smartpay_fraud.invocations serve`.

The contract is SageMaker's (custom inference code with hosting services): GET /ping answers 200
once the model is loaded, POST /invocations scores, port 8080, the model lies in /opt/ml/model.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

import os
import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import numpy as np

from smartpay_fraud.adapters.bundle_source import BundleError, source_of
from smartpay_fraud.adapters.matrix_wire import CONTENT_TYPE, VERSION_PREFIX, matrix, packed
from smartpay_fraud.adapters.model_bundle import ModelBundle, load
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.domain.graph import GRAPH_WIDTH

MODEL_FOLDER = "/opt/ml/model"
PORT = 8080
BODY_BYTES_MAX = 6_000_000
"""SageMaker's own limit for a synchronous call is 6 MB."""

_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_IDLE_SECONDS = 75  # longer than the platform keeps a connection, so that it closes first


def server_of(bundle: ModelBundle, address: tuple[str, int]) -> ThreadingHTTPServer:
    """Makes the HTTP server of one bundle, bound and not yet serving."""
    engine = Lock()  # one run at a time: two would only share the container's core

    class Invocations(BaseHTTPRequestHandler):
        """Answers the container contract's two requests."""

        protocol_version = "HTTP/1.1"
        timeout = _IDLE_SECONDS

        def do_GET(self) -> None:
            """Says that the container is healthy."""
            self._answer(HTTPStatus.OK if self.path == "/ping" else HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            """Scores one batch."""
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
            elif self.headers.get(_ATTRIBUTES) != VERSION_PREFIX + bundle.version:
                self._answer(HTTPStatus.CONFLICT)
            else:
                self._score(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps quiet: the platform logs calls, and bodies are people's data."""

        def _score(self, body: bytes) -> None:
            try:
                given = matrix(body, np.float32).astype(np.float32, copy=False)
            except (ValueError, OSError, EOFError):
                self._answer(HTTPStatus.BAD_REQUEST)
                return
            width = len(FEATURES) + (GRAPH_WIDTH if bundle.weights else 0)
            if given.shape[1] != width or not len(given):
                self._answer(HTTPStatus.BAD_REQUEST)
                return
            rows = np.ascontiguousarray(given[:, : len(FEATURES)])
            graph = np.ascontiguousarray(given[:, len(FEATURES) :])
            with engine:
                margins, columns = bundle.engine.infer(rows, graph)
            said = np.concatenate([margins[:, None], columns.astype(np.float64)], axis=1)
            self._answer(HTTPStatus.OK, packed(said))

        def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.send_header(_ATTRIBUTES, VERSION_PREFIX + bundle.version)
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(address, Invocations)


def main() -> None:
    """Loads the bundle, serves until SIGTERM; exits with 78 (EX_CONFIG) for a bad bundle."""
    uri = os.environ.get("FRAUD_MODEL_URI") or MODEL_FOLDER
    try:
        bundle = load(source_of(uri, region=os.environ.get("AWS_REGION", "")).read())
    except BundleError as error:
        sys.stderr.write(f"invocations: {error}\n")
        sys.exit(os.EX_CONFIG)
    # A container has no loopback to the platform; only SageMaker's network reaches it.
    host = os.environ.get("FRAUD_INVOCATIONS_HOST", "0.0.0.0")
    server = server_of(bundle, (host, int(os.environ.get("SAGEMAKER_BIND_TO_PORT", PORT))))
    # From a thread of its own: shutdown waits for the loop that the signal interrupts.
    signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
