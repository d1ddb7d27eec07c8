"""The whole service as a process: reloaded under load, and stopped from serving a bad model."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc, model_pb2, model_pb2_grpc
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import as_merchant, write_merchants
from smartpay_fraud.adapters.model_bundle import load, write

RELOADS = 20
CALLERS = 4
START_SECONDS_MAX = 60  # a machine that is busy with other tests starts slowly
RELOAD_SECONDS_MAX = 30
Files = dict[str, bytes]


def place(folder: Path, name: str, files: Files) -> None:
    """Puts a bundle where the link leads, as an operator does: written aside, swapped at once."""
    contents = {n: data for n, data in files.items() if n != "manifest.json"}
    write(folder / name, json.loads(files["manifest.json"]), contents)
    (folder / "next").symlink_to(folder / name)
    os.replace(folder / "next", folder / "model")


@asynccontextmanager
async def fraud_service(folder: Path, **settings: str) -> AsyncIterator[grpc.aio.Channel]:
    """Runs `python -m smartpay_fraud` in a folder and kills it in the end."""
    write_merchants(folder / "merchants.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "smartpay_fraud",
        env={
            **os.environ,
            "SMARTPAY_LISTEN_SOCKET": str(folder / "listen"),
            "SMARTPAY_EGRESS_SOCKET": str(folder / "egress"),
            "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
            "FRAUD_STORE_PATH": str(folder / "fraud.db"),
            "LOG_LEVEL": "WARNING",
            **settings,
        },
    )
    try:
        async with grpc.aio.insecure_channel(
            f"unix:{folder / 'listen'}", options=[("grpc.default_authority", "test")]
        ) as channel:
            yield channel
    finally:
        process.kill()
        await process.wait()


def a_request(number: int) -> fraud_pb2.ScoreRequest:
    return fraud_pb2.ScoreRequest(
        transaction_id=f"order-{number}",
        amount=Money(minor_units=1_000 + number, currency_code="USD"),
        customer_id=f"customer-{number % 50}",
        device_id=f"device-{number % 40}",
    )


async def reloads_of(models: Any) -> model_pb2.ModelReloads:
    response = await models.GetModelStatus(
        model_pb2.GetModelStatusRequest(),
        metadata=as_merchant(),
        wait_for_ready=True,
        timeout=START_SECONDS_MAX,
    )
    reloads: model_pb2.ModelReloads = response.status.reloads
    return reloads


async def test_twenty_reloads_under_load_fail_no_call(
    make_bundle_files: Callable[..., Files],
) -> None:
    bundles = [make_bundle_files(seed, with_graph=seed % 2 == 0) for seed in range(1, 4)]
    with tempfile.TemporaryDirectory(prefix="sp") as name:
        folder = Path(name)
        place(folder, "first", bundles[-1])
        settings = {
            "FRAUD_MODEL_URI": str(folder / "model"),
            "FRAUD_MODEL_POLL_SECONDS": "0.02",
        }
        async with fraud_service(folder, **settings) as channel:
            fraud = fraud_pb2_grpc.FraudServiceStub(channel)
            models = model_pb2_grpc.ModelServiceStub(channel)
            await reloads_of(models)
            done = asyncio.Event()
            numbers = iter(range(1_000_000))
            versions: list[str] = []

            async def call_again_and_again() -> None:
                while not done.is_set():
                    response: Any = await fraud.Score(
                        a_request(next(numbers)), metadata=as_merchant()
                    )
                    versions.append(response.assessment.model_version)

            callers = [asyncio.create_task(call_again_and_again()) for _ in range(CALLERS)]
            async with asyncio.timeout(RELOADS * RELOAD_SECONDS_MAX):
                for reload in range(RELOADS):
                    place(folder, f"bundle-{reload}", bundles[reload % len(bundles)])
                    while (await reloads_of(models)).succeeded <= reload:
                        await asyncio.sleep(0.01)
            done.set()
            await asyncio.gather(*callers)  # raises what any call was refused with
            reloads = await reloads_of(models)
    assert (reloads.succeeded, reloads.refused) == (RELOADS, 0)
    assert set(versions) >= {load(files).version for files in bundles}


async def test_a_process_does_not_start_on_a_bad_model(files: Files) -> None:
    with tempfile.TemporaryDirectory(prefix="sp") as name:
        folder = Path(name)
        place(folder, "first", {**files, "trees.npz": files["trees.npz"][:-1]})
        write_merchants(folder / "merchants.json")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "smartpay_fraud",
            env={
                **os.environ,
                "SMARTPAY_LISTEN_SOCKET": str(folder / "listen"),
                "SMARTPAY_EGRESS_SOCKET": str(folder / "egress"),
                "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
                "FRAUD_STORE_PATH": str(folder / "fraud.db"),
                "FRAUD_MODEL_URI": str(folder / "model"),
            },
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await asyncio.wait_for(process.communicate(), START_SECONDS_MAX)
    assert process.returncode == os.EX_CONFIG
    assert b"trees.npz" in told


# The container that SageMaker runs.


@asynccontextmanager
async def container(uri: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "smartpay_fraud.invocations",
        "serve",
        env={
            **os.environ,
            "FRAUD_MODEL_URI": str(uri),
            "FRAUD_INVOCATIONS_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(port),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def pinged(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /ping HTTP/1.1\r\nHost: container\r\n\r\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


async def test_the_container_answers_pings_and_ends_in_peace(files: Files, tmp_path: Path) -> None:
    place(tmp_path, "first", files)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with container(tmp_path / "model", port) as process, asyncio.timeout(START_SECONDS_MAX):
        answer = b""
        while not answer:
            try:
                answer = await pinged(port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
        process.terminate()
        assert await process.wait() == 0
    assert answer == b"HTTP/1.1 200 OK\r\n"


async def test_the_container_does_not_start_on_a_bad_model(files: Files, tmp_path: Path) -> None:
    place(tmp_path, "first", {**files, "model.onnx": b"?"})
    async with container(tmp_path / "model", 0) as process:
        _, told = await asyncio.wait_for(process.communicate(), START_SECONDS_MAX)
    assert process.returncode == os.EX_CONFIG
    assert b"model.onnx" in told
