"""The page `docs/limits.md`: every number of `limits.py` with its reason, generated."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from smartpay_gateway import limits

_HEAD = """\
# Limits

Generated from `gateway/src/smartpay_gateway/limits.py` by `make protos`; change a limit there.
Where an environment may choose, the number here is the default of the hole of that name.

"""


def limits_page() -> str:
    """Prints one table per group, in the order of the source."""
    return _HEAD + "\n".join(_lines()).strip() + "\n"


def _lines() -> Iterator[str]:
    source = Path(limits.__file__).read_text()
    headings = {
        number: line.removeprefix("# ")
        for number, line in enumerate(source.splitlines(), 1)
        if line.startswith("# ")
    }
    statements = ast.parse(source).body
    for statement, reason in pairwise(statements):
        if not isinstance(statement, ast.Assign) or not isinstance(reason, ast.Expr):
            continue
        while headings and min(headings) < statement.lineno:
            yield from ("", f"## {headings.pop(min(headings))}", "")
            yield from ("| limit | value | why |", "|---|---|---|")
        name = ast.unparse(statement.targets[0])
        why = " ".join(ast.literal_eval(reason.value).split())
        yield f"| `{name}` | {_printed(name, getattr(limits, name))} | {why} |"


def _printed(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    unit = {"BYTES": " bytes", "KIB": " KiB", "PERCENT": " %", "SECONDS": " s"}
    if isinstance(value, int | float):
        return f"{value:,}{unit.get(name.rsplit('_', 1)[-1], '')}"
    raise TypeError(f"{name} is {value!r}: say in limits_page.py how to print it.")
