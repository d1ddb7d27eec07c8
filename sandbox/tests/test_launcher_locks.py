"""Locks and figures: small rules the launcher and the demo stand on."""

from pathlib import Path

import pytest

from smartpay_sandbox.demo import figures_in, in_tokens, in_words
from smartpay_sandbox.environments import Environment, SetupError, check_python
from smartpay_sandbox.lockfile import locks, projects, requirements_of
from smartpay_sandbox.run_folder import REPOSITORY


def pins(file: Path) -> set[str]:
    return {line for line in file.read_text().splitlines() if "==" in line}


def test_the_committed_locks_are_what_the_declarations_lead_to() -> None:
    for path, text in locks(REPOSITORY).items():
        assert path.read_text() == text, f"{path.name} is old: run `make lock`"


def test_every_constraint_stands_in_the_full_lock() -> None:
    full = pins(REPOSITORY / "requirements.lock")
    for file in (REPOSITORY / "constraints").glob("*.txt"):
        assert pins(file) <= full, file.name


def test_no_environment_of_the_demo_holds_torch_or_cuda() -> None:
    for name in ("requirements.lock", "requirements-aws.lock"):
        lowered = (REPOSITORY / name).read_text().lower()
        assert not any(word in lowered for word in ("torch", "nvidia", "cuda", "triton"))


def test_every_package_declares_what_it_needs() -> None:
    assert {"protos", "chassis", "gateway", "sandbox"} <= projects(REPOSITORY).keys()
    assert requirements_of(REPOSITORY / "chassis", extras=False)


def test_an_environment_is_current_only_for_the_lock_it_was_made_of(tmp_path: Path) -> None:
    lock, folder = tmp_path / "a.lock", tmp_path / "venv"
    lock.write_text("one==1\n")
    folder.mkdir()
    environment = Environment(folder, lock)
    assert not environment.is_current()
    (folder / "smartpay-lock.sha256").write_text(environment.fingerprint())
    assert environment.is_current()
    lock.write_text("one==2\n")
    assert not environment.is_current()


def test_a_python_that_makes_no_environments_is_refused_with_the_line_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"apt-get install .* python3-venv"):
        check_python()


def test_what_fails_in_an_installation_is_told(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.write_text("not-a-package==\n")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text("#!/bin/sh\necho the index is away\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(SetupError, match="the index is away"):
        Environment(tmp_path / "venv", lock).install()


def test_amounts_and_tokens_are_written_from_whole_numbers() -> None:
    assert in_words(123456, "USD") == "1,234.56 USD"
    assert in_words(5, "EUR") == "0.05 EUR"
    assert in_words(1234, "JPY") == "1,234 JPY"
    assert in_tokens(1_500_000) == "1.5"
    assert in_tokens(10_000_000) == "10"


def test_figures_are_read_whole_so_that_a_part_of_one_proves_nothing() -> None:
    text = "Captured volume, all time: 1,298.96 USD.\nRefunded: 0.00 USD. Blocked: 13."
    assert figures_in(text) == {"1,298.96 USD", "13"}
