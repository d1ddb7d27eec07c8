"""Writes the locks out of what is installed: `python -m smartpay_sandbox.lockfile`.

One full lock for the whole house, and per service the part of it that the service needs, so that
an image holds what was tested and nothing else. Run it in a clean `.venv` after an upgrade.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from smartpay_sandbox.run_folder import REPOSITORY, write_whole

IN_HOUSE_PREFIX = "smartpay-"
HEADER = "# Every package pinned, by `make lock`; installed with --no-deps.\n"
EXTRA_HEADER = "# What {name} needs, cut out of requirements.lock by `make lock`.\n"


class MissingPackageError(Exception):
    """A needed package is not installed, so that its version can't be pinned."""


def closure(wanted: Iterable[str], installed: Mapping[str, Distribution]) -> dict[str, str]:
    """Lists name and version of everything that requirements lead to, in-house ones left out.

    Raises:
        MissingPackageError: naming the package and who needs it.
    """
    pinned: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(line), "us") for line in wanted]
    while waiting:
        requirement, needed_by = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name.startswith(IN_HOUSE_PREFIX) or (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name not in installed:
            raise MissingPackageError(f"{name} is needed by {needed_by} and not installed")
        distribution = installed[name]
        pinned[distribution.metadata["Name"]] = distribution.version
        for line in distribution.requires or []:
            further = Requirement(line)
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (*extras, "")):
                waiting.append((further, name))
    return pinned


def requirements_of(project: Path, *, extras: bool) -> list[str]:
    """Reads what one of our packages declares; with its in-house packages' own declarations."""
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    lines = list(declared["dependencies"])
    if extras:
        lines += [line for of in declared.get("optional-dependencies", {}).values() for line in of]
    return lines


def projects(root: Path) -> dict[str, Path]:
    """Finds our packages by their folder's name."""
    files = (*root.glob("*/pyproject.toml"), *root.glob("services/*/pyproject.toml"))
    return {file.parent.name: file.parent for file in sorted(files)}


def locks(root: Path) -> dict[Path, str]:
    """Computes all lock files: path to text."""
    installed = {str(canonicalize_name(d.metadata["Name"])): d for d in distributions()}
    ours = projects(root)
    lines = (root / "requirements.in").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    for project in ours.values():
        wanted += requirements_of(project, extras=True)
    written = {root / "requirements.lock": HEADER + _text(closure(wanted, installed))}
    shared = [
        line for name in ("protos", "chassis") for line in requirements_of(ours[name], extras=False)
    ]
    for name, project in ours.items():
        if project.parent.name == "services":
            needed = closure([*shared, *requirements_of(project, extras=False)], installed)
            header = EXTRA_HEADER.format(name=name)
            written[root / "constraints" / f"{name}.txt"] = header + _text(needed)
    return written


def _text(pinned: Mapping[str, str]) -> str:
    lines = (f"{name}=={pinned[name]}" for name in sorted(pinned, key=canonicalize_name))
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    for path, text in locks(REPOSITORY).items():
        path.parent.mkdir(exist_ok=True)
        write_whole(path, text)
        print(path.relative_to(REPOSITORY), text.count("=="), "packages")
