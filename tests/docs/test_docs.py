"""What is written about the house is true: targets, settings, reasons, links, and no odd paths."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartpay.assistant.v1 import assistant_pb2
from smartpay.fraud.v1 import fraud_pb2
from smartpay.payments.v1 import payments_pb2
from smartpay.rewards.v1 import rewards_pb2
from smartpay.router.v1 import router_pb2
from smartpay.type.v1 import error_reason_pb2
from smartpay_chassis.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]


def files_in_git() -> list[Path]:
    """Lists what is committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


FILES = files_in_git()
PAGES = [file for file in FILES if file.suffix == ".md"]
READMES = [page for page in PAGES if page.name == "README.md" and page.parent != ROOT]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def sources(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> dict[Path, str]:
    """Reads the code of some packages, without their tests."""
    return {
        file: file.read_text()
        for file in FILES
        if file.suffix in suffixes
        and file.relative_to(ROOT).parts[0] in folders
        and "src" in file.relative_to(ROOT).parts
    }


# ---- make targets


@pytest.fixture(scope="module")
def targets() -> dict[str, str]:
    """What `make help` lists: each target and its description."""
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    rows = re.findall(r"^ *make (\S+) +(\S.*)$", listed, re.MULTILINE)
    return dict(rows)


def test_every_make_target_has_a_description(targets: dict[str, str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    defined = set(re.findall(r"^([\w-]+):(?!=)", makefile, re.MULTILINE))
    assert {"demo", "up", "lint", "test"} <= defined
    assert targets.keys() == defined


def code_in(page: Path) -> Iterator[str]:
    """Finds what a page spells as code, in lines and in blocks."""
    text = page.read_text()
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_a_page_names_exists(page: Path, targets: dict[str, str]) -> None:
    named = {
        match[1] for code in code_in(page) if (match := re.match(r"\s*(?:\$ )?make ([\w-]+)", code))
    }
    assert named - targets.keys() == set()


def test_the_pages_for_newcomers_name_the_targets_they_need() -> None:
    for page, needed in (("README.md", {"demo"}), ("CONTRIBUTING.md", {"lint", "test"})):
        code = "\n".join(code_in(ROOT / page))
        assert all(f"make {target}" in code for target in needed), page


# ---- settings


def settings_classes() -> list[tuple[Path, type[ServiceSettings]]]:
    """Finds every service's settings, with the README that documents them."""
    found: list[tuple[Path, type[ServiceSettings]]] = [
        (ROOT / "chassis/README.md", ServiceSettings)
    ]
    for module in sorted(ROOT.glob("services/*/src/*/settings.py")):
        loaded = importlib.import_module(f"{module.parent.name}.settings")
        found += [
            (module.parents[2] / "README.md", item)
            for item in vars(loaded).values()
            if isinstance(item, type)
            and issubclass(item, ServiceSettings)
            and item.__module__ == loaded.__name__
        ]
    return found


SETTINGS = settings_classes()


def test_every_service_has_settings() -> None:
    services = {path.name for path in (ROOT / "services").iterdir() if path.is_dir()}
    assert {readme.parent.name for readme, _ in SETTINGS} == services | {"chassis"}


def variables_in(readme: Path) -> set[str]:
    """Reads the first column of a README's tables, where it is a variable."""
    return set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` *\|", readme.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("readme", "settings"), SETTINGS, ids=[settings.__name__ for _, settings in SETTINGS]
)
def test_every_setting_stands_in_the_readme_of_its_package(
    readme: Path, settings: type[ServiceSettings]
) -> None:
    inherited = set() if settings is ServiceSettings else ServiceSettings.model_fields.keys()
    own = {name: f for name, f in settings.model_fields.items() if name not in inherited}
    assert {str(field.validation_alias) for field in own.values()} - variables_in(readme) == set()
    assert [name for name, field in own.items() if not field.description] == []


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_every_variable_a_readme_lists_is_read_by_its_package(readme: Path) -> None:
    code = "\n".join(
        file.read_text() for file in FILES if file.suffix == ".py" and readme.parent in file.parents
    )
    assert {name for name in variables_in(readme) if name not in code} == set()


# ---- error reasons

PREFIX = "ERROR_REASON_"
PUBLISHED = {
    (file.DESCRIPTOR.package, value.name.removeprefix(PREFIX))
    for file in (
        error_reason_pb2,
        fraud_pb2,
        router_pb2,
        payments_pb2,
        rewards_pb2,
        assistant_pb2,
    )
    for value in file.DESCRIPTOR.enum_types_by_name["ErrorReason"].values
    if value.number
}


def test_every_published_reason_is_raised_somewhere() -> None:
    code = "\n".join(sources("services", "chassis", "gateway", suffixes=(".py", ".lua")).values())
    never = {(package, name) for package, name in PUBLISHED if f'"{name}"' not in code}
    assert never == set(), "publish only what is raised"


def test_every_raised_reason_is_published() -> None:
    known = {name for _, name in PUBLISHED}
    raised = {
        (node.args[1].value, name_of(file))
        for file, text in sources("services", "chassis").items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Refusal"
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
    }
    assert len(raised) > len(known) / 2, "the search finds the refusals"
    assert {(reason, where) for reason, where in raised if reason not in known} == set()


# ---- links, and what must not be told


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    relative = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


# Written so that they do not match themselves.
FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.~}-])/(?:work|root|home/\w+|Users/\w+)/",
    "a package registry's host": (
        r"pypi\.org|pythonhosted\.org|registry\.npmjs|proxy\.golang\.org|static\.crates\.io"
        r"|https?://[^\s\"']+/simple\b"
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names_what_belongs_to_one_machine(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name_of(file)}: {match.group()}"
        for file in FILES
        if (match := pattern.search(file.read_text(errors="replace"))) is not None
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of somebody's machine", "see {}work{}main"),
        ("a path of somebody's machine", '"{}home{}ada{}x"'),
        ("a package registry's host", "https:{}{}pypi" + ".org"),
        ("a package registry's host", "http:{}{}localhost:8080{}simple"),
    ],
)
def test_such_names_would_be_noticed(what: str, text: str) -> None:
    assert re.search(FORBIDDEN[what], text.replace("{}", "/") + "/")
