"""The process as people start it: one port, durable over kill -9, controlled over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from smartpay_sandbox.settings import SettingError, read_settings

PAY = {
    "amount": "1999",
    "currency": "usd",
    "payment_method": "pm_card_visa",
    "confirm": "true",
    "automatic_payment_methods[enabled]": "true",
    "automatic_payment_methods[allow_redirects]": "never",
}
START_SECONDS_MAX = 30
"""A start takes about two; the rest is for a crowded machine."""


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    accounts = folder / "accounts.json"
    accounts.write_text(json.dumps([{"id": "acct_1", "secret_key": "sk_test_1"}]))
    port_file = folder / "port"
    child = subprocess.Popen(
        [sys.executable, "-m", "smartpay_sandbox"],
        env={
            **os.environ,
            "SANDBOX_STATE_DIR": str(folder / "state"),
            "SANDBOX_STRIPE_ACCOUNTS": str(accounts),
            "SANDBOX_PORT_FILE": str(port_file),
            "SANDBOX_CHECK_RESPONSES": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        told = child.stdout.readline()
        assert told.startswith("sandbox listens on http://127.0.0.1:"), child.communicate()[1]
        url = told.split()[-1]
        assert url.endswith(f":{port_file.read_text()}")
        with httpx.Client(base_url=url, timeout=START_SECONDS_MAX) as client:
            assert client.get("/control/health").json()["status"] == "ok"
            yield child, client
    finally:
        child.kill()
        child.communicate()


def pay(client: httpx.Client, key: str, **changes: str) -> httpx.Response:
    headers = {"Authorization": "Bearer sk_test_1", "Idempotency-Key": key}
    return client.post("/stripe/v1/payment_intents", data=PAY | changes, headers=headers)


def test_a_killed_sandbox_forgets_nothing_it_answered(tmp_path: Path) -> None:
    with process(tmp_path) as (child, client):
        answers = [pay(client, f"k{number}").json() for number in range(20)]
        declined = pay(client, "no", payment_method="pm_card_chargeDeclined")
        before = client.get("/control/stripe/dump").json()["accounts"]["acct_1"]
        genesis = client.get("/control/solana/dump").json()["genesis_hash"]
        child.send_signal(signal.SIGKILL)
        child.wait()
    with process(tmp_path) as (_, client):
        after = client.get("/control/stripe/dump").json()["accounts"]["acct_1"]
        replays = [pay(client, f"k{number}") for number in range(20)]
        declined_again = pay(client, "no", payment_method="pm_card_chargeDeclined")
        total = client.get("/control/stripe/dump").json()["accounts"]["acct_1"]["charges"]
        genesis_again = client.get("/control/solana/dump").json()["genesis_hash"]

    for kind in ("payment_intents", "charges", "payment_methods", "balance_transactions"):
        assert after[kind] == before[kind]
        assert list(after[kind]) == list(before[kind]), "the order of creation survives"
    assert [replay.json() for replay in replays] == answers
    assert {replay.headers["Idempotent-Replayed"] for replay in replays} == {"true"}
    assert declined_again.json() == declined.json()
    assert len(total) == 21
    assert genesis_again == genesis


def test_the_control_api_rules_the_simulators_and_sigterm_stops_cleanly(tmp_path: Path) -> None:
    with process(tmp_path) as (child, client):
        node = client.post(
            "/solana", json={"jsonrpc": "2.0", "id": 1, "method": "getHealth", "params": []}
        )
        assert node.json()["result"] == "ok", "the bare mount point must not redirect"

        made = client.post(
            "/control/stripe/accounts", json={"id": "acct_2", "secret_key": "sk_test_2"}
        )
        assert made.status_code == 201
        basic = client.get("/stripe/v1/charges", auth=("sk_test_2", ""))
        assert (basic.status_code, basic.json()["data"]) == (200, [])

        rules = {"rules": [{"kind": "error_before", "path_prefix": "/v1/payment_intents"}]}
        assert client.put("/control/stripe/faults", json=rules).status_code == 200
        assert pay(client, "a").status_code == 500
        assert client.delete("/control/stripe/faults").status_code == 204
        assert pay(client, "a").status_code == 200
        dump = client.get("/control/stripe/dump").json()
        assert dump["requests"] == {"GET 200": 1, "POST 500": 1, "POST 200": 1}
        assert client.post("/control/reset").status_code == 204
        dump = client.get("/control/stripe/dump").json()
        assert dump["accounts"]["acct_1"]["payment_intents"] == {}
        assert pay(client, "a").status_code == 200, "accounts outlive a reset"

        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=START_SECONDS_MAX) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("PUT", "/control/stripe/faults", {"rules": [{"kind": "x"}]}, 400, "rules[0].kind"),
        ("PUT", "/control/stripe/faults", [], 400, "rules"),
        ("PUT", "/control/paypal/faults", {"rules": []}, 404, "solana, stripe"),
        ("POST", "/control/stripe/accounts", {"id": "acct_9"}, 400, "secret_key"),
        ("POST", "/control/stripe/accounts", {"id": "a", "secret_key": "sk_test_9"}, 400, "acct_"),
        ("POST", "/control/stripe/accounts", {"id": "acct_9", "secret_key": "sk_test_1"}, 400,
         "another account"),
        ("POST", "/control/stripe/accounts", {"id": "acct_9", "secret_key": "sk_live_1"}, 400,
         "sk_test_"),
    ],
)  # fmt: skip
def test_a_wrong_control_call_is_told_what_would_do(
    running: httpx.Client, method: str, path: str, body: Any, status: int, told: str
) -> None:
    answer = running.request(method, path, json=body)
    assert answer.status_code == status
    assert told in answer.json()["error"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with process(tmp_path_factory.mktemp("sandbox")) as (_, client):
        yield client


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "smartpay_sandbox"],
            env={**os.environ, "SANDBOX_STATE_DIR": str(tmp_path), "SANDBOX_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX,
            check=False,
        )
    assert ended.returncode == 1
    assert "SANDBOX_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "SANDBOX_STATE_DIR"),
        ({"SANDBOX_STATE_DIR": "x", "SANDBOX_PORT": "70000"}, "SANDBOX_PORT"),
        ({"SANDBOX_STATE_DIR": "x", "SANDBOX_CHECK_RESPONSES": "yes"}, "SANDBOX_CHECK_RESPONSES"),
        ({"SANDBOX_STATE_DIR": "x", "SANDBOX_STRIPE_ACCOUNTS": "/no"}, "SANDBOX_STRIPE_ACCOUNTS"),
    ],
)
def test_a_bad_setting_is_named(environment: dict[str, str], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        read_settings(environment)
