"""Part of `make bench-fraud`, in the rivals' environment: batching by Ray Serve and by BentoML.

All serve the same ONNX file through onnxruntime with one thread, and batch up to the same size.
Ours crosses a socket by grpc.aio; Ray is asked by a handle inside its own cluster, without its
proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[attr-defined]

from smartpay_bench.loops import Call, closed_loop

CALLERS = 64
BATCH_ROWS_MAX = 64
BATCH_WAIT_SECONDS = 0.001
"""What Ray and BentoML wait for company; ours never waits."""
ROUNDS = 3
ROUND_SECONDS = 4.0


def session_of(model: str) -> Callable[[np.ndarray], np.ndarray]:
    """Opens the model as our service configures it; answers margins, float32 [n, 1], of rows."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda rows: np.asarray(session.run(["margins"], {"rows": rows})[0])


def ray_call(model: str, row: np.ndarray) -> tuple[Call, Any]:
    """Deploys the model behind `@serve.batch` on a cluster of this machine alone."""
    import ray
    from ray import serve

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"location": "NoServer"}, logging_config={"log_level": "ERROR"})

    batched: Any = serve.batch(
        max_batch_size=BATCH_ROWS_MAX, batch_wait_timeout_s=BATCH_WAIT_SECONDS
    )
    deployed: Any = serve.deployment(max_ongoing_requests=256)

    @deployed
    class Trees:
        def __init__(self) -> None:
            self._margins = session_of(model)

        @batched  # type: ignore[untyped-decorator]
        async def score(self, rows: list[np.ndarray]) -> list[float]:
            return [float(margin) for margin in self._margins(np.stack(rows))[:, 0]]

        async def __call__(self, row: np.ndarray) -> object:
            return await self.score(row)

    bind: Any = getattr(Trees, "bind")  # noqa: B009 - the decorator adds it
    handle = serve.run(bind(), name="bench")

    async def call() -> object:
        return await handle.remote(row)

    def stop() -> None:
        serve.shutdown()
        ray.shutdown()

    return call, stop


async def ours_call(socket: str, row: np.ndarray) -> tuple[Call, Any]:
    """Asks our server, which `fraud_batched_server` runs."""
    import grpc

    channel = grpc.aio.insecure_channel(f"unix:{socket}")
    await channel.channel_ready()
    method: Any = channel.unary_unary("/bench.Trees/Score")
    raw = row.astype("<f4").tobytes()

    async def call() -> object:
        return await method(raw)

    return call, channel


async def bento_call(address: str, row: np.ndarray) -> tuple[Call, Any]:
    """Asks BentoML's own HTTP server with its adaptive batching."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=CALLERS)
    http = aiohttp.ClientSession(connector=connector)
    body = json.dumps({"rows": [row.tolist()]}).encode()
    headers = {"Content-Type": "application/json"}

    async def call() -> object:
        async with http.post(f"{address}/score", data=body, headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())
            return await response.read()

    return call, http


async def measure(model: str, socket: str, bento: str, row: np.ndarray) -> dict[str, float]:
    """Asks all in turn; the ratio of each round, and their median."""
    ours, channel = await ours_call(socket, row)
    ray_handle, stop_ray = await asyncio.to_thread(ray_call, model, row)
    callers: dict[str, Call] = {"ours": ours, "ray": ray_handle}
    http = None
    if bento:
        callers["bentoml"], http = await bento_call(bento, row)
    rates: dict[str, list[float]] = {name: [] for name in callers}
    try:
        for call in callers.values():
            await closed_loop(call, CALLERS, 1.0)
        for _ in range(ROUNDS):
            for name, call in callers.items():
                rates[name].append((await closed_loop(call, CALLERS, ROUND_SECONDS)).rate)
                sys.stderr.write(f"{name}: {rates[name][-1]:.0f} rows/s\n")
    finally:
        await channel.close()
        if http is not None:
            await http.close()
        await asyncio.to_thread(stop_ray)
    told = {f"batched_{name}_rate": statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        if name != "ours":
            told[f"batcher_vs_{name}"] = _ratio(rates["ours"], found)
    return told


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Measures and prints one JSON object."""
    # Ray Serve brings it; BentoML's environment, which opens its model from here, has none.
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--row", required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--bento", default="")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    row = np.frombuffer(Path(chosen.row).read_bytes(), "<f4")
    print(json.dumps(uvloop.run(measure(chosen.model, chosen.socket, chosen.bento, row))))


if __name__ == "__main__":
    main()
