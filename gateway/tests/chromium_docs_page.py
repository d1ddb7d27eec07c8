"""Opens the docs page in a real Chromium; `make test-docs-page` runs it (Debian: chromium)."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from smartpay_gateway.pages import CONTENT_SECURITY_POLICY
from smartpay_gateway.templates import PUBLIC
from smartpay_gateway.testing import Mesh

ELSEWHERE = "http://elsewhere.example"


@dataclass(frozen=True)
class Visit:
    """What a page became, and which addresses were asked for while it did."""

    dom: str
    asked: frozenset[str]

    def text(self) -> str:
        """Reads the words without markup and spaces, which only say where lines may break."""
        return re.sub(r"\s", "", html.unescape(re.sub(r"<[^>]*>", "", self.dom)))

    def foreign(self, origin: str) -> set[str]:
        """Lists what was asked of anybody but `origin`."""
        return {url for url in self.asked if not url.startswith(f"{origin}/")}


def visit(url: str, folder: Path) -> Visit:
    """Opens a page and gives it twenty seconds of its own time, which pass at once."""
    log = folder / "net.json"
    chromium = shutil.which("chromium")
    assert chromium, "apt-get install chromium"
    shown = subprocess.run(
        [
            chromium,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-default-apps", "--disable-extensions", "--disable-domain-reliability"),
            f"--user-data-dir={folder / 'profile'}",
            # Nobody outside is reached even when the page tries; the log tells that it tried.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--log-net-log={log}",
            *("--virtual-time-budget=20000", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    events = json.loads(log.read_text())["events"]
    asked = [event["params"] for event in events if "initiator" in (event.get("params") or {})]
    # Chromium also asks for things of its own accord; what a page asks for has an initiator.
    addresses = {one["url"] for one in asked if one["initiator"] != "not an origin"}
    web = frozenset(a for a in addresses if urlsplit(a).scheme in {"http", "https", "ws", "wss"})
    return Visit(shown.stdout, web)


@pytest.fixture(scope="module")
def docs(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Visit]]:
    with mesh.plain_edge() as edge:
        origin = f"http://127.0.0.1:{edge.port}"
        yield origin, visit(f"{origin}/docs", tmp_path_factory.mktemp("chromium"))


def test_the_page_shows_every_operation(docs: tuple[str, Visit]) -> None:
    described = json.loads((PUBLIC / "openapi.json").read_text())
    summaries = [o["summary"] for path in described["paths"].values() for o in path.values()]
    assert [text for text in summaries if text.replace(" ", "") not in docs[1].text()] == []


def test_no_request_leaves_the_origin(docs: tuple[str, Visit]) -> None:
    origin, page = docs
    assert f"{origin}/openapi.json" in page.asked
    assert page.foreign(origin) == set()


def test_a_page_that_asks_elsewhere_would_be_noticed(mesh: Mesh, tmp_path: Path) -> None:
    spoilt = tmp_path / "public"
    shutil.copytree(PUBLIC / "docs-page", spoilt / "docs-page")
    shutil.copy(PUBLIC / "openapi.json", spoilt)
    page = spoilt / "docs-page" / "index.html"
    page.write_text(page.read_text().replace("<body>", f'<body><img src="{ELSEWHERE}/x.png">'))
    for policy, noticed in ((CONTENT_SECURITY_POLICY, set()), ("", {f"{ELSEWHERE}/x.png"})):
        change = (CONTENT_SECURITY_POLICY, policy or "img-src *")
        with mesh.plain_edge(change, PUBLIC_FOLDER=str(spoilt)) as edge:
            origin = f"http://127.0.0.1:{edge.port}"
            folder = tmp_path / (policy[:7] or "open")
            folder.mkdir()
            assert visit(f"{origin}/docs", folder).foreign(origin) == noticed
