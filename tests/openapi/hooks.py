"""What schemathesis can't know of this API; run.py tells by environment whose token it uses.

Hooks: https://schemathesis.readthedocs.io/en/stable/guides/extending/
"""

from __future__ import annotations

import json
import os
from itertools import count
from typing import Any

import jsonschema_rs  # type: ignore[import-not-found]
import schemathesis  # type: ignore[import-not-found]

KEY = "Idempotency-Key"
SCOPES = frozenset(os.environ["OPENAPI_SCOPES"].split())
"""Scopes of the token."""
HIDDEN = os.environ["OPENAPI_HIDDEN"].split()
"""Ids in the dictionaries that belong to another merchant than the token."""

_numbers = count()


def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Takes the catch-all answers out: every status that is seen must be told by name."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            del operation["responses"]["default"]


def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]
) -> None:
    """Gives each case an intent of its own, unless it is about a broken or missing key."""
    key = (case.headers or {}).get(KEY)
    if key and key.isascii() and key.isprintable() and " " not in key and len(key) <= 200:
        case.headers[KEY] = f"{key}-{next(_numbers)}"


def filter_failure(
    context: schemathesis.HookContext, failure: Any, case: schemathesis.Case, response: Any
) -> bool:
    """Lets a method that no path has be 404: a route is verb and path together (ROUTE_UNKNOWN)."""
    return not (type(failure).__name__ == "UnsupportedMethodResponse" and _is_unknown(response))


def _is_unknown(response: Any) -> bool:
    return bool(response.status_code == 404 and response.json()["reason"] == "ROUTE_UNKNOWN")


def scope_is_needed(ctx: Any, response: Any, case: schemathesis.Case) -> None:
    """Fails when a call succeeds whose documented scope the token doesn't have."""
    needed = case.operation.definition.raw["security"][0]["oauth2"][0]
    assert response.status_code >= 300 or needed in SCOPES, f"{needed} is not needed"


def other_merchants_are_hidden(ctx: Any, response: Any, case: schemathesis.Case) -> None:
    """Fails when a call by or about another merchant's id succeeds."""
    told = response.text + response.request.url
    assert response.status_code >= 300 or not any(i in told for i in HIDDEN), "a stranger's id"


def every_piece_is_as_documented(ctx: Any, response: Any, case: schemathesis.Case) -> None:
    """Holds each event or line of a stream against the schema, which tells of one piece."""
    kind = response.headers.get("content-type", [""])[0]
    if kind not in ("text/event-stream", "application/x-ndjson"):
        return
    described = case.operation.definition.raw["responses"]["200"]["content"][kind]["schema"]
    if described.get("type") == "string":
        return  # a file: its lines are rows, and the description tells of them
    document = {**described, "components": case.operation.schema.raw_schema["components"]}
    validator = jsonschema_rs.validator_for(document)
    pieces = [line.removeprefix("data: ") for line in response.text.splitlines() if line.strip()]
    assert pieces, "the stream is empty"
    broken = [e.message for piece in pieces for e in validator.iter_errors(json.loads(piece))]
    assert not broken, "; ".join(broken)


for _hook in (before_load_schema, before_call, filter_failure):
    schemathesis.hook(_hook)
for _check in (scope_is_needed, other_merchants_are_hidden, every_piece_is_as_documented):
    schemathesis.check(_check)
