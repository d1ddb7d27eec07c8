"""`make test-load`: payments at a steady rate through the whole mesh; the last line is JSON.

Arrivals follow a fixed schedule and each time counts from its own arrival, so a slow answer does
not hide the ones that wait behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import ssl
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp

from smartpay_sandbox.launcher import Mesh
from smartpay_sandbox.run_folder import REPOSITORY
from smartpay_sandbox.tenants import DEMO

RATE_PER_SECOND = 50  # the design's budget is stated at this rate on two cores
SECONDS = 10.0  # long enough for a 99th percentile out of 500
WARM_UP = 50  # first imports and connections are not what is measured
CALL_SECONDS = 35.0  # above the deadline of POST /pay, so that the edge answers first
CONNECTIONS_MAX = 128  # HTTP/1.1 callers at once; far more than an answer in time needs
P95_MS_MAX = 200  # the SLA of POST /pay


async def pay(session: aiohttp.ClientSession, url: str, key: str, due: float) -> tuple[str, float]:
    """Makes one payment; answers its status and milliseconds since it was due."""
    order = {
        "amount": {"minorUnits": str(random.randint(500, 20_000)), "currencyCode": "USD"},
        "instrument": {
            "tokens": [
                {"processorAccountId": DEMO.account_id(name), "token": "pm_card_visa"}
                for name in DEMO.accounts
            ],
            "fingerprint": key,
        },
        "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
        "customerId": f"customer-{key}",
        "deviceId": f"device-{key}",
    }
    try:
        async with session.post(url, json=order, headers={"Idempotency-Key": key}) as response:
            body = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__, (time.perf_counter() - due) * 1000
    status = body["status"] if response.status < 400 else f"{response.status} {body['reason']}"
    return str(status), (time.perf_counter() - due) * 1000


async def load(mesh: Mesh, rate: int, seconds: float) -> dict[str, object]:
    """Sends payments for so long and sums up."""
    endpoints = mesh.endpoints
    context = ssl.create_default_context(cafile=endpoints["ca"])
    run = f"{time.time_ns():x}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS_MAX),
        headers={"Authorization": f"Bearer {mesh.token()}"},
        timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
    ) as session:
        url = f"{endpoints['rest']}/pay"
        for number in range(WARM_UP):
            await pay(session, url, f"{run}-warm-{number}", time.perf_counter())
        started = time.perf_counter()
        sent: list[asyncio.Task[tuple[str, float]]] = []
        for number in range(int(rate * seconds)):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append(asyncio.create_task(pay(session, url, f"{run}-{number}", due)))
        results = await asyncio.gather(*sent)
        lasted = time.perf_counter() - started
    centiles = statistics.quantiles((ms for _, ms in results), n=100, method="inclusive")
    statuses = Counter(status for status, _ in results)
    return {
        "payments": len(results),
        "per_second": round(len(results) / lasted, 1),
        "seconds": round(lasted, 1),
        "p50_ms": round(centiles[49], 1),
        "p95_ms": round(centiles[94], 1),
        "p99_ms": round(centiles[98], 1),
        "statuses": dict(statuses),
        "refused": sum(n for status, n in statuses.items() if not status.startswith("STATUS_")),
        "within_sla": centiles[94] < P95_MS_MAX,
    }


def main() -> int:
    """Runs the load; 1 when a payment got no proper answer."""
    parser = argparse.ArgumentParser(prog="python -m smartpay_sandbox.load")
    parser.add_argument("--run", type=Path, default=REPOSITORY / ".run")
    parser.add_argument("--rate", type=int, default=RATE_PER_SECOND, help="payments per second")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    result = asyncio.run(load(Mesh(arguments.run), arguments.rate, arguments.seconds))
    print(json.dumps(result))
    return 0 if result["refused"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
