"""Our batcher before the rivals' model: grpc.aio, one row as bytes in, one margin out."""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop

from smartpay_chassis.server import spare_the_collector
from smartpay_fraud.adapters.onnx_models import OnnxModel
from smartpay_fraud.micro_batcher import MicroBatcher

BATCH_ROWS_MAX = 64
QUEUE_MAX = 1_024


async def serve(model: str, socket: str) -> None:
    """Serves until it is told to stop."""
    engine = OnnxModel(Path(model).read_bytes())
    nothing = np.zeros((1, 0), np.float32)

    async def work(rows: list[bytes]) -> list[float]:
        block = np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1)
        margins: list[float] = engine.infer(block, nothing)[0].tolist()
        return margins

    batcher = MicroBatcher(work, rows_max=BATCH_ROWS_MAX, queue_max=QUEUE_MAX)

    async def score(raw: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        (margin,) = await batcher.submit([raw])
        return struct.pack("<d", margin)

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(score)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Trees", {"Score": handler}),)
    )
    server.add_insecure_port(f"unix:{socket}")
    spare_the_collector()  # as the service does
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
