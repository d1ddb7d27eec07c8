"""`make bench-fraud`: what the fraud service costs, part by part, against what others would use.

Each part runs alone, in the environment that holds its rivals, and alternates with them; ratios are
taken within one process or one round. The last line is one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from smartpay_bench.cpu import machine_microseconds
from smartpay_fraud.adapters.bundle_source import source_of
from smartpay_fraud.adapters.model_bundle import arrays
from smartpay_fraud.training import trees
from smartpay_fraud.training.onnx_export import to_onnx

TRAINING = ".venv-train/bin/python"
RAY, BENTO = ".venv-bench-ray/bin/python", ".venv-bench-bento/bin/python"
"""They ask for versions of one package that exclude each other."""
PART_SECONDS = 600.0
BENTO_START_SECONDS = 60.0
AT_LEAST = {
    "trees_vs_inplace": 10.0,
    "sage_vs_torch": 10.0,
    "sage_vs_pyg": 10.0,
    "reasons_vs_contribs": 5.0,
    "batcher_vs_unbatched": 1.0,
    "batcher_vs_unbatched_xgboost": 10.0,
    "batcher_vs_ray": 5.0,
    "scorebatch_vs_unary": 20.0,
}
AT_MOST = {"request_p50_us": 200.0, "server_p99_ms": 5.0}


class PartError(Exception):
    """A part failed; its own words were shown."""


def part(name: str, python: str, *arguments: str) -> dict[str, Any]:
    """Runs one part and reads its last line."""
    sys.stderr.write(f"-- {name}\n")
    done = subprocess.run(
        [python, "-m", f"smartpay_bench.{name}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PART_SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise PartError(f"{name} ended with {done.returncode}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


@contextlib.contextmanager
def process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs something beside the bench, and ends it with its children."""
    running = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def rivals() -> dict[str, Any]:
    """Our batcher, Ray Serve's and BentoML's, all before one and the same model file."""
    files = source_of("").read()
    golden = arrays(files["golden.npz"])
    booster = xgboost.Booster()
    booster.load_model(bytearray(files["model.ubj"]))
    ensemble = trees.read_out(booster)
    with tempfile.TemporaryDirectory(prefix="sp-") as name:
        folder = Path(name)
        model, row, path = folder / "trees.onnx", folder / "row.f32", folder / "ours.sock"
        columns = booster.num_features()
        model.write_bytes(to_onnx(ensemble, columns))
        base = golden["rows"][0].astype("<f4")
        row.write_bytes(np.pad(base, (0, columns - len(base))).tobytes())
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        ours = [sys.executable, "-m", "smartpay_bench.fraud_batched_server", str(model), str(path)]
        bento = [
            *(BENTO, "-m", "bentoml", "serve", "smartpay_bench.fraud_bento_service:Trees"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENCH_MODEL": str(model)}
        with process(ours), process(bento, **quiet) as server:
            serves = _answers(server, f"{address}/healthz")
            if not serves:
                sys.stderr.write("BentoML does not start here; it is left out\n")
            chosen = ("--model", str(model), "--row", str(row), "--socket", str(path))
            return part("fraud_rivals", RAY, *chosen, *(("--bento", address) if serves else ()))


def _answers(server: subprocess.Popen[bytes], url: str) -> bool:
    import httpx

    end = time.monotonic() + BENTO_START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return True
        time.sleep(0.5)
    return False


def table(told: dict[str, Any]) -> str:
    """Every figure, and what was asked of it."""
    lines = []
    for name, value in told.items():
        asked = ""
        if name in AT_LEAST:
            asked = f"at least {AT_LEAST[name]:g}" + ("" if value >= AT_LEAST[name] else ": MISSED")
        if name in AT_MOST:
            asked = f"at most {AT_MOST[name]:g}" + ("" if value <= AT_MOST[name] else ": MISSED")
        lines.append(f"{name:<32} {value:>12,.5g}  {asked}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Runs all parts; ends with 1 and no figures when one failed."""
    start, busy, own = time.monotonic(), machine_microseconds(), os.times()
    try:
        told = part("fraud_engines", sys.executable)
        told |= part("fraud_graph", TRAINING)
        told |= part("fraud_server", sys.executable)
        told |= rivals()
    except (PartError, subprocess.TimeoutExpired) as error:
        sys.exit(f"bench-fraud: {error}")
    seconds, ended = time.monotonic() - start, os.times()
    used = sum(ended[:4]) - sum(own[:4])
    others = (machine_microseconds() - busy) / 1_000_000 - used
    told = {name: round(float(value), 4) for name, value in told.items()}
    told["seconds"] = round(seconds, 1)
    told["others_cores"] = round(max(0.0, others / seconds), 2)
    print(f"\n{table(told)}\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
