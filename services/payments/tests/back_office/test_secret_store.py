"""What every store of secrets promises; files and Secrets Manager run the same suite."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_payments.adapters.aws_secrets import AwsSecrets
from smartpay_payments.adapters.secret_files import SecretFiles

NAME = "pac_d1aaaa/crd_d1bbbb"
SECRET = 'sk_test_é"\n{}'


class PretendSecretsManager(BaseHTTPRequestHandler):
    """Secrets Manager's own wire (JSON 1.1), as far as secrets are put, read and removed."""

    secrets: dict[str, str]
    is_down = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        action = self.headers["x-amz-target"].rpartition(".")[2]
        if type(self).is_down:
            self._answer(503, {"__type": "InternalServiceError", "message": json.dumps(body)})
            return
        name = body.get("SecretId") or body["Name"]
        known = name in self.secrets
        if action == "CreateSecret" and known:
            self._answer(400, {"__type": "ResourceExistsException"})
        elif action != "CreateSecret" and not known:
            self._answer(400, {"__type": "ResourceNotFoundException"})
        elif action in ("CreateSecret", "PutSecretValue"):
            self.secrets[name] = body["SecretString"]
            self._answer(200, {"Name": name})
        elif action == "GetSecretValue":
            self._answer(200, {"Name": name, "SecretString": self.secrets[name]})
        elif action == "DeleteSecret" and body["ForceDeleteWithoutRecovery"]:
            del self.secrets[name]
            self._answer(200, {"Name": name})
        else:
            self._answer(400, {"__type": "InvalidRequestException"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(params=["files", "aws"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "files":
        yield SecretFiles(tmp_path / "secrets")
        return
    handler = type("Handler", (PretendSecretsManager,), {"secrets": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        secrets = AwsSecrets.connect(
            "smartpay/test",
            "eu-central-1",
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        secrets.wire = handler  # type: ignore[attr-defined]
        yield secrets
        await secrets.close()
        server.shutdown()


async def test_a_secret_reads_back_as_it_was_kept(store: Any) -> None:
    assert await store.get(NAME) is None
    await store.put(NAME, SECRET)
    assert await store.get(NAME) == SECRET


async def test_a_secret_is_replaced_and_removed(store: Any) -> None:
    await store.put(NAME, SECRET)
    await store.put(NAME, "new")
    assert await store.get(NAME) == "new"
    await store.delete(NAME)
    await store.delete(NAME)
    assert await store.get(NAME) is None
    await store.put(NAME, SECRET)
    assert await store.get(NAME) == SECRET


async def test_names_do_not_meet(store: Any) -> None:
    await asyncio.gather(*(store.put(f"a/b-{n}", str(n)) for n in range(20)))
    assert [await store.get(f"a/b-{n}") for n in range(20)] == [str(n) for n in range(20)]
    assert await store.get("a/b") is None
    assert await store.get("a") is None


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", "a.b", "a" * 201]
)
async def test_a_name_that_could_lead_elsewhere_is_refused(store: Any, name: str) -> None:
    for call in (store.get(name), store.put(name, "x"), store.delete(name)):
        with pytest.raises(ValueError, match="name"):
            await call


async def test_racing_writers_leave_one_whole_secret(store: Any) -> None:
    texts = [str(n) * 1000 for n in range(8)]
    await asyncio.gather(*(store.put(NAME, text) for text in texts))
    assert await store.get(NAME) in texts


async def test_files_are_readable_by_the_service_alone_from_the_first_moment(
    tmp_path: Path,
) -> None:
    secrets = SecretFiles(tmp_path / "secrets")
    await secrets.put(NAME, SECRET)
    found = list((tmp_path / "secrets").rglob("*"))
    assert {stat.S_IMODE(f.stat().st_mode) for f in found if f.is_file()} == {0o600}
    assert {stat.S_IMODE(f.stat().st_mode) for f in found if f.is_dir()} == {0o700}
    assert len([f for f in found if f.is_file()]) == 1, "nothing temporary stays"


@pytest.mark.parametrize("store", ["aws"], indirect=True)
async def test_a_store_that_is_away_is_told_without_the_secret(
    store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store.wire.is_down = True
    with pytest.raises(Refusal) as refused:
        await store.put(NAME, "hunter2")
    assert refused.value.reason == "UNAVAILABLE"
    assert refused.value.__cause__ is None
    assert "hunter2" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("given", "used"), [("ap-south-1", "ap-south-1"), ("", "eu-north-1")])
async def test_secrets_manager_is_asked_in_the_settings_region_before_botos_own(
    monkeypatch: pytest.MonkeyPatch, given: str, used: str
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    secrets = AwsSecrets.connect("smartpay/test", given)
    assert secrets._client.meta.region_name == used
    await secrets.close()
