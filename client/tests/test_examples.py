"""The examples run as they are, against the whole mesh."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from smartpay_client import AsyncClient, Client, InvalidRequest, Money
from smartpay_sandbox.launcher import Mesh

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
README = EXAMPLES.parent / "README.md"
# Example: what it must say.
SAID = {
    "pay_and_refund": ["SUCCEEDED, 1999 taken", "refund SUCCEEDED: 500", "they sum to 0"],
    "capture_later": [
        "REQUIRES_CAPTURE: 5000 reserved",
        "SUCCEEDED: 4200 taken",
        "CANCELED",
        "STATUS_FORBIDS: ",
    ],
    "declines_and_errors": [
        "declined: True (",
        "amount.currencyCode: ",
        "100: SUCCEEDED",
        "200: Use a fresh key",
        "PAYMENT_NOT_FOUND, request ",
    ],
    "score_and_route": [
        "ALLOW with score 0.",
        "3 more scored",
        "SUCCEEDED at pac_",
        "used by: True",
    ],
    "saved_instrument": [
        "token: READY",
        "renewal: SUCCEEDED",
        "default: True",
        "ETAG_MISMATCH: ",
        "payments of the customer: 1",
        "detached: True",
    ],
    "receive_webhooks": [
        "heard: smartpay.payment.succeeded.v1 of 1500",
        "all balances sum to 0",
        "exported: True",
        "audited: True",
    ],
    "report_async": ["side by side: 1500", "reward ", "rewards listed: True", "USD"],
}


def settings(mesh: Mesh) -> dict[str, str]:
    read: Any = runpy.run_path(str(EXAMPLES / "development.py"))["settings"]
    found: dict[str, str] = read(mesh.run.root)
    return found


def test_every_example_is_tried() -> None:
    names = {file.stem for file in EXAMPLES.glob("*.py")}
    assert names == {*SAID, "development"}


@pytest.mark.mesh
@pytest.mark.parametrize("name", SAID)
def test_an_example_does_what_it_says(mesh: Mesh, name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
        env={**os.environ, **settings(mesh)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for sentence in SAID[name]:
        assert sentence in run.stdout


@pytest.mark.mesh
def test_the_two_minute_start_works_as_it_is_printed(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, value in settings(mesh).items():
        monkeypatch.setenv(variable, value)
    code = README.read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, str(README), "exec"), {})
    assert "SUCCEEDED" in capsys.readouterr().out


@pytest.mark.mesh
def test_the_edge_names_the_field_and_the_request(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in settings(mesh).items():
        monkeypatch.setenv(variable, value)
    with Client.from_environment() as client:
        with pytest.raises(InvalidRequest) as caught:
            client.payments.refund("pay_d1" + "u" * 24, Money(1, "USD"))
        assert caught.value.field == "paymentId"
        assert caught.value.request_id
        with pytest.raises(InvalidRequest) as caught:
            list(client.payments.list(status="TELEPORTED"))
        assert caught.value.field == "status"


@pytest.mark.mesh
def test_a_short_deadline_learns_that_a_payment_is_undecided_and_later_how_it_ended(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in settings(mesh).items():
        monkeypatch.setenv(variable, value)
    control = f"{mesh.endpoints['sandbox']}/stripe/faults"
    slow = {"kind": "slow", "delay_ms": 6000, "times": 1, "path_prefix": "/v1/payment_intents"}
    httpx.put(control, json={"rules": [slow]}, trust_env=False).raise_for_status()
    try:
        with Client.from_environment() as client:
            payment = client.payments.create(
                amount=Money(700, "USD"),
                instrument={"pac_d1mmzd9hq73ytxj4ps4c29ac6f": "pm_card_visa"},
                capture_method="AUTOMATIC",
                wait=True,
                deadline=4,
            )
            assert payment.undecided, "the edge answered before our time was up"
            assert client.payments.wait(payment.payment_id, deadline=40).succeeded
    finally:
        httpx.delete(control, trust_env=False).raise_for_status()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_settings_come_from_the_environment_and_name_what_is_missing(
    kind: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    needed = {
        "SMARTPAY_URL": "https://edge.test",
        "SMARTPAY_TOKEN_URL": "https://issuer.test/oauth2/token",
        "SMARTPAY_CLIENT_ID": "merchant",
        "SMARTPAY_CLIENT_SECRET_FILE": str(secret),
    }
    for variable in (*needed, "SMARTPAY_CLIENT_SECRET", "SMARTPAY_CA_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SMARTPAY_SCOPES", "smartpay/chat smartpay/payments.read")
    for variable, value in needed.items():
        named = variable.removesuffix("_FILE")
        with pytest.raises(ValueError, match=f"{named} is missing"):
            kind.from_environment()
        monkeypatch.setenv(variable, value)
    credentials = kind.from_environment()._credentials
    assert credentials.client_secret == "s3cret"
    assert credentials.scopes == ("smartpay/chat", "smartpay/payments.read")
