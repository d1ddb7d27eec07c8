"""Fuzzes a mesh of its own by the OpenAPI its edge serves: `make test-openapi`.

Three passes, each as another client: the merchant itself, another merchant that guesses its ids,
and a client with one scope. The last line is one JSON object; the exit status is 1 on any failure.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartpay_sandbox.cognito import UserPool
from smartpay_sandbox.edge_session import edge_session
from smartpay_sandbox.launcher import Mesh
from smartpay_sandbox.tenants import DEMO, OTHER, Tenant

HERE = Path(__file__).resolve().parent
PROGRAM = HERE.parents[1] / ".venv-openapi/bin/schemathesis"
SEED = 20261122
PASS_SECONDS = 420.0  # several times what the longest pass takes; only a hang reaches it
CARDS = (
    "pm_card_visa",
    "pm_card_visa_chargeDeclined",
    "pm_card_threeDSecure2Required",
    "pm_card_chargeDeclinedProcessingError",
)


@dataclass(frozen=True)
class Pass:
    """One run of schemathesis.

    Attributes:
        client: whose token.
        tenant: the client's merchant.
        phases: schemathesis' phases.
        examples: made-up requests per operation and phase.
    """

    client: str
    tenant: Tenant
    phases: str
    examples: int


PASSES = (
    Pass("demo", DEMO, "examples,coverage,fuzzing,stateful", 60),
    Pass("other", OTHER, "fuzzing", 25),
    Pass("readonly", DEMO, "examples,fuzzing", 10),
)
# Words that lead to one merchant's things alone.
OWNED = ("accounts", "payments", "decisions")


async def make_history(mesh: Mesh) -> dict[str, list[str]]:
    """Makes the demo merchant's payments, decisions and a score: ids for the dictionaries.

    Raises:
        httpx.HTTPStatusError: when the mesh refuses one.
    """
    accounts = [DEMO.account_id(account) for account in DEMO.accounts]
    amount = {"minorUnits": "1999", "currencyCode": "USD"}
    made: dict[str, list[str]] = {
        "accounts": accounts,
        "amounts": ["1", "50", "1999"],
        "cards": list(CARDS),
        "currencies": ["USD", "EUR", "JPY"],
        "payments": [],
        "decisions": [],
        "transactions": ["order-1"],
    }
    async with edge_session(mesh) as session:

        async def post(path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
            answer = await session.post(path, json=body, headers={"Idempotency-Key": key})
            answer.raise_for_status()
            return dict(answer.json())

        for card in CARDS:
            tokens = [{"processorAccountId": account, "token": card} for account in accounts]
            order = {"amount": amount, "instrument": {"tokens": tokens}}
            for capture in ("CAPTURE_METHOD_AUTOMATIC", "CAPTURE_METHOD_MANUAL"):
                for number in range(3):
                    key = f"{card}-{capture}-{number}"
                    payment = await post("/pay", {**order, "captureMethod": capture}, key)
                    made["payments"].append(payment["paymentId"])
            decision = await post("/route", order, card)
            made["decisions"].append(decision["decisionId"])
        await post("/fraud", {"transactionId": "order-1", "amount": amount}, "score")
    return made


def fuzz(mesh: Mesh, one: Pass, words: dict[str, list[str]], folder: Path) -> dict[str, Any]:
    """Runs one pass and answers schemathesis' own report."""
    pool = UserPool.load(mesh.run)
    assert pool is not None, "the mesh has no user pool"
    settings = (HERE / "schemathesis.toml").read_text().replace("HOOKS", str(HERE / "hooks.py"))
    for name, values in {"merchants": [one.tenant.merchant_id], **words}.items():
        settings += f"\n[dictionaries.{name}]\nvalues = {json.dumps(values)}\n"
    guessed = [word for name in OWNED for word in words[name] if one.tenant is not DEMO]
    config = folder / f"{one.client}.toml"
    config.write_text(settings)
    report = folder / f"{one.client}.json"
    # Nothing else of this shell: a proxy or a CA bundle of the machine would be used.
    environment = {
        "PATH": os.environ["PATH"],
        "EDGE_TOKEN": mesh.token(one.client),
        "EDGE_CA": mesh.endpoints["ca"],
        "OPENAPI_SCOPES": " ".join(pool.clients[one.client].scopes),
        "OPENAPI_HIDDEN": " ".join(guessed),
    }
    print(f"\nAs {one.client}:", flush=True)
    command = [
        *(str(PROGRAM), "--config-file", str(config)),
        *("run", f"{mesh.endpoints['rest']}/openapi.json", "--no-color"),
        *("--seed", str(SEED), "--phases", one.phases, "--max-examples", str(one.examples)),
        *("--report-json-path", str(report)),
    ]
    ended = subprocess.run(command, env=environment, cwd=folder, timeout=PASS_SECONDS, check=False)
    if not report.exists():
        raise SystemExit(f"schemathesis ended with {ended.returncode} and no report")
    return dict(json.loads(report.read_text()))


def failures_of(report: dict[str, Any], one: Pass) -> int:
    """Counts distinct failures, errors, and what was left out: an untested operation is one."""
    operations = report["operations"]
    asked = one.phases.split(",")
    skipped = sum(
        phase["status"] not in ("success", "failure") or phase["skip_reason"] is not None
        for name, phase in report["phases"].items()
        if name.lower() in asked
    )
    return int(
        report["test_cases"]["unique_failures"]
        + sum(error["count"] for error in report["errors"])
        + operations["total"]
        - operations["tested"]
        + skipped
        + (not report["complete"])
    )


def main() -> int:
    """Starts the mesh, runs all passes and prints the verdict."""
    # Short, because Unix sockets live in it.
    with tempfile.TemporaryDirectory(prefix="sp-") as name, Mesh(Path(name) / "mesh") as mesh:
        words = asyncio.run(make_history(mesh))
        reports = [(one, fuzz(mesh, one, words, Path(name))) for one in PASSES]
    failures = sum(failures_of(report, one) for one, report in reports)
    verdict = {
        "operations": min(report["operations"]["tested"] for _, report in reports),
        "cases": sum(report["test_cases"]["generated"] for _, report in reports),
        "failures": failures,
        "seed": SEED,
    }
    print(json.dumps(verdict))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
