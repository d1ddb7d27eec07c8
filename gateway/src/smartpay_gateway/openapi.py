"""Describes the REST surface as OpenAPI 3.1, out of the contract alone.

Format: https://spec.openapis.org/oas/v3.1.1.html. The edge serves it as /openapi.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from smartpay_gateway import limits
from smartpay_gateway.contract import (
    RAW_BODY,
    REASONS,
    SHARED_PACKAGE,
    Binding,
    Contract,
    ContractError,
)
from smartpay_gateway.contract import Method as Rpc
from smartpay_gateway.examples import EXAMPLES
from smartpay_gateway.json_schemas import Schema, Schemas, Side, is_required

VERSIONED = "/v1"
PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
FILES = ("text/csv", LINES)  # what exports are written as
_MADE_BEFORE = frozenset({"customer_id", "decision_id", "payment_id"})
# Named by choice, and refused when there is no such thing.
_LOOKED_UP = frozenset({"account_order", "after", "instrument_id", "payment_id", "version"})
_VARIABLE = re.compile(r"\{([a-z0-9_]+)(?:=\*)?\}")
# As a comment of the contract says it: "REST: 201 with a terminal status, 202 with one ...".
_STATUSES = re.compile(r"\bREST: (20\d[^.]*)\.")
_STATUS = re.compile(r"(20\d) ([^,]+)")

_GUIDE = """\
One API for payments, fraud scores, routing, rewards and questions about them.

- **Tokens**: OAuth 2.0 client credentials; send `Authorization: Bearer`. Each operation names its
  scope.
- **Every path also answers under `/v1`.**
- **Money** is whole minor units with a currency. 64-bit integers are texts in answers; requests
  may hold texts or numbers.
- **Idempotency**: what moves money needs an `Idempotency-Key`. The same key with the same body is
  the same operation for ever; the repeated answer carries `Idempotent-Replayed: true`.
- **A decline is an answer**, not an error: 201 with `STATUS_FAILED`.
- **Errors** are `application/problem+json` (RFC 9457) with a stable `reason` and a `remedy`; see
  the schema `ErrorReason` for the catalogue.
- **Unknown fields and query parameters are refused**, never ignored.
- **Lists** are paged: give `nextPageToken` as `pageToken` until it is empty.
- **Streams** are server-sent events, or newline-delimited JSON when `Accept` asks for
  `application/x-ndjson` alone. A stream that ends without `done` was cut.
"""

_PROBLEMS: Mapping[str, tuple[str, str]] = {
    "400": ("BadRequest", "A field, the body or a header is not as documented."),
    "401": ("Unauthorized", "No token, or none that is good."),
    "403": ("Forbidden", "The token lacks the scope, the client or the merchant."),
    "404": ("NotFound", "No such thing of this merchant."),
    "409": ("Conflict", "The state of things forbids it, or the first call is still at work."),
    "413": ("TooLarge", f"The body is larger than {limits.BODY_BYTES} bytes."),
    "422": ("KeyReused", "The idempotency key or id was used with another request."),
    "429": ("TooMany", "Too many calls; wait as long as Retry-After says."),
    "500": ("Fault", "A fault of ours."),
    "503": ("Unavailable", "Not reachable at the moment; repeat with the same idempotency key."),
    "504": ("Late", "The deadline passed; repeat with the same idempotency key."),
}

_HEADERS: Mapping[str, Schema] = {
    "ETag": {
        "description": "Changes with every change of what is answered.",
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "`true` when the operation was done before and only told again.",
        "schema": {"type": "string", "const": "true"},
    },
    "Location": {
        "description": "The path of what was made.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {
        "description": "What was wrong with the token (RFC 6750).",
        "schema": {"type": "string"},
    },
    "X-Request-Id": {
        "description": "The id of this call in our logs.",
        "schema": {"type": "string"},
    },
}

_PARAMETERS: Mapping[str, Schema] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "Names what you intend: a fresh one per intent, the same one in repeats.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "order-1001",
    },
    "Merchant": {
        "name": "SmartPay-Merchant",
        "in": "header",
        "description": "The merchant to act for; only for people who belong to several.",
        "schema": {"type": "string", "pattern": "^mer_[a-z][0-9][0-9a-hjkmnp-tv-z]{24}$"},
    },
}

_TEXT = {"type": "string"}
_PROBLEM_SCHEMA: Schema = {
    "type": "object",
    "description": "Why a call was refused (RFC 9457), and what to do.",
    "required": ["type", "title", "status", "reason", "detail", "remedy", "errors"],
    "properties": {
        "type": {**_TEXT, "format": "uri", "description": "Identifies the reason."},
        "title": {**_TEXT, "description": "The reason in words."},
        "status": {"type": "integer", "description": "The HTTP status again."},
        "reason": {"$ref": f"#/components/schemas/{REASONS}"},
        "detail": {**_TEXT, "description": "What was wrong in this call."},
        "field": {**_TEXT, "description": "The field or header it is about, if it is about one."},
        "remedy": {**_TEXT, "description": "One sentence on what to do."},
        "errors": {
            "type": "array",
            "description": "Every field that breaks a rule.",
            "items": {
                "type": "object",
                "required": ["field"],
                "properties": {
                    "field": {**_TEXT, "description": "As REST spells it."},
                    "detail": {**_TEXT, "description": "What is wrong with it."},
                    "reason": {**_TEXT, "description": "The rule it breaks."},
                },
            },
        },
        "requestId": {**_TEXT, "description": "The id of this call in our logs."},
        "traceId": {**_TEXT, "description": "The W3C trace of this call, if it has one."},
    },
}


def openapi(contract: Contract) -> str:
    """Writes the document as JSON text; raises ContractError for what it can't describe."""
    rpcs = [rpc for rpc in contract.with_token() if rpc.bindings]
    schemas = Schemas(
        contract.comments, [rpc.request for rpc in rpcs], [rpc.response for rpc in rpcs]
    )
    paths: dict[str, Schema] = {}
    for rpc in rpcs:
        for binding in _unversioned(rpc):
            path = _json_path(rpc, binding)
            if binding.verb.lower() in paths.setdefault(path, {}):
                raise ContractError(f"{rpc.path}: {binding.verb} {path} belongs to another rpc.")
            paths[path][binding.verb.lower()] = _operation(rpc, binding, schemas)
    document = {
        "openapi": "3.1.1",
        "info": {
            "title": "SmartPay",
            "version": "1.0.0",
            "description": _GUIDE,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [
            {"url": "/", "description": "This edge."},
            {"url": VERSIONED, "description": "The same, by version."},
        ],
        "tags": [
            {"name": tag, "description": schemas.prose(service)}
            for tag, service in sorted({(_tag(rpc), _service(rpc)) for rpc in rpcs})
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {
                **dict(sorted(schemas.components.items())),
                "Problem": _PROBLEM_SCHEMA,
                REASONS: _catalogue(contract, schemas),
            },
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": {
                name: _problem(status, words) for status, (name, words) in _PROBLEMS.items()
            },
            "securitySchemes": _security_schemes(rpcs),
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _service(rpc: Rpc) -> str:
    return rpc.name.rpartition(".")[0]


def _tag(rpc: Rpc) -> str:
    """Names what the rpcs of one gRPC service are about: "payments", "webhook endpoints"."""
    words = re.findall("[A-Z][a-z]*", _service(rpc).rpartition(".")[2].removesuffix("Service"))
    return " ".join(words).lower()


def _operation_id(rpc: Rpc, binding: Binding) -> str:
    """Names an operation; where an rpc has more routes, those after the first by what they fix."""
    title = _title(rpc)
    name = title[0].lower() + title[1:]
    if binding == _unversioned(rpc)[0]:
        return name
    fixed = sorted(rpc.request.fields_by_name[field].json_name for field in _variables(binding))
    return f"{name}By{'And'.join(field[0].upper() + field[1:] for field in fixed)}"


def _unversioned(rpc: Rpc) -> list[Binding]:
    """Lists the routes without /v1, which the second server stands for."""
    plain = [b for b in rpc.bindings if not b.path.startswith(f"{VERSIONED}/")]
    versioned = {(b.verb, b.path, b.body) for b in rpc.bindings if b not in plain}
    if versioned != {(b.verb, VERSIONED + b.path, b.body) for b in plain}:
        raise ContractError(f"{rpc.path}: every route is served with and without {VERSIONED}.")
    return plain


def _variables(binding: Binding) -> frozenset[str]:
    return frozenset(_VARIABLE.findall(binding.path))


def _json_path(rpc: Rpc, binding: Binding) -> str:
    fields = rpc.request.fields_by_name
    return _VARIABLE.sub(lambda m: "{" + fields[m.group(1)].json_name + "}", binding.path)


def _operation(rpc: Rpc, binding: Binding, schemas: Schemas) -> Schema:
    about = schemas.prose(rpc.name)
    summary = re.split(r"(?<=\.)\s", about, maxsplit=1)[0].rstrip(".")
    operation: Schema = {
        "operationId": _operation_id(rpc, binding),
        "tags": [_tag(rpc)],
        "summary": summary,
        "description": f"{about}\n\nDeadline: {rpc.deadline_seconds:g} s, or less by a shorter "
        f"`grpc-timeout`. Over gRPC: `{rpc.path[1:]}`.",
        "security": [{"oauth2": [rpc.scope]}, {"token": []}],
        "parameters": list(_parameters(rpc, binding, schemas)),
    }
    if binding.body:
        operation["requestBody"] = _request_body(rpc, binding, schemas)
    operation["responses"] = {
        **_successes(rpc, binding, schemas),
        **{
            status: {"$ref": f"#/components/responses/{_PROBLEMS[status][0]}"}
            for status in _refusals(rpc, binding)
        },
        "default": _problem("", "Any other refusal."),
    }
    return operation


def _parameters(rpc: Rpc, binding: Binding, schemas: Schemas) -> Iterator[Schema]:
    if rpc.idempotency_key:
        yield {"$ref": "#/components/parameters/IdempotencyKey"}
    in_path = _variables(binding)
    for field in rpc.request.fields:
        if field.name in in_path:
            yield _parameter(rpc, field, schemas, {"in": "path", "required": True})
        elif not binding.body:
            if field.message_type is not None:
                raise ContractError(f"{field.full_name}: a query holds no messages.")
            yield _parameter(rpc, field, schemas, {"in": "query"})
    yield {"$ref": "#/components/parameters/Merchant"}


def _parameter(rpc: Rpc, field: FieldDescriptor, schemas: Schemas, place: Schema) -> Schema:
    schema = schemas.field(field, Side.REQUEST)
    about = schema.pop("description")
    parameter = {"name": field.json_name, **place, "description": about, "schema": schema}
    if field.json_name in _example(rpc):
        parameter["example"] = _example(rpc)[field.json_name]
    return parameter


def _example(rpc: Rpc) -> Mapping[str, Any]:
    if rpc.name not in EXAMPLES:
        raise ContractError(f"{rpc.path}: no example; add one to examples.py.")
    return EXAMPLES[rpc.name]


def _request_body(rpc: Rpc, binding: Binding, schemas: Schemas) -> Schema:
    if rpc.request.full_name == RAW_BODY:
        return {"required": True, "content": {"*/*": {}}}
    if binding.body != "*":
        raise ContractError(f"{rpc.path}: teach openapi.py a body of one field.")
    in_path = _variables(binding)
    schema = schemas.message(rpc.request, Side.REQUEST, without=in_path)
    taken = {rpc.request.fields_by_name[name].json_name for name in in_path}
    example = {name: value for name, value in _example(rpc).items() if name not in taken}
    needed = "required" in schemas.components[schema["$ref"].rpartition("/")[2]]
    return {
        "required": needed,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _successes(rpc: Rpc, binding: Binding, schemas: Schemas) -> Schema:
    answer: Descriptor = rpc.response
    if binding.response_body:
        answer = _body_of(rpc, binding)
    kinds = (EVENTS, LINES) if rpc.streams else ("application/json",)
    if answer.full_name == RAW_BODY:
        schema, kinds, about = {"type": "string"}, FILES, "The file, piece by piece."
    else:
        schema = schemas.message(answer, Side.ANSWER)
        about = schemas.prose(answer.full_name)
    headers = ["X-Request-Id"]
    if "etag" in answer.fields_by_name:
        headers.append("ETag")
    if rpc.idempotency_key:
        headers.append("Idempotent-Replayed")
    # The service chooses among 200, 201 and 202; where the contract tells, it is told here.
    told = _STATUSES.search(schemas.prose(rpc.name))
    statuses = dict(_STATUS.findall(told.group(1))) if told else {}
    if not statuses:
        statuses = {"2XX" if rpc.idempotency_key else "200": ""}
    return {
        status: {
            "description": words.capitalize() + "." if words else about,
            "headers": {
                name: {"$ref": f"#/components/headers/{name}"}
                for name in (*headers, *(("Location",) if status in {"201", "202"} else ()))
            },
            "content": {kind: {"schema": schema} for kind in kinds},
        }
        for status, words in statuses.items()
    }


def _body_of(rpc: Rpc, binding: Binding) -> Descriptor:
    message = rpc.response.fields_by_name[binding.response_body].message_type
    if message is None:
        raise ContractError(f"{rpc.path}: response_body must be one message.")
    return message


def _refusals(rpc: Rpc, binding: Binding) -> list[str]:
    statuses = {"400", "401", "403", "429", "500", "503", "504"}
    in_path = _variables(binding)
    if in_path or _names_something(rpc.request):
        statuses |= {"404", "409"}
    if binding.body:
        # What is asked of a state may be too early for it, even when the asking changes nothing.
        statuses |= {"409", "413"}
    # What may be repeated refuses other input in the place of the first, with a key or an id.
    has_input = bool(set(rpc.request.fields_by_name) - in_path)
    if rpc.idempotency_key or (has_input and not rpc.reads_only):
        statuses |= {"409", "422"}
    return sorted(statuses)


def _names_something(request: Descriptor) -> bool:
    """Tells whether a request names something that was made before and is refused if it is not."""
    inner = (g for f in request.fields if f.message_type is not None for g in f.message_type.fields)
    return any(
        (f.name in _MADE_BEFORE and is_required(f)) or f.name in _LOOKED_UP
        for f in (*request.fields, *inner)
    )


def _problem(status: str, words: str) -> Schema:
    headers = ["X-Request-Id"]
    if status == "401":
        headers.append("WWW-Authenticate")
    if status in {"429", "503"}:
        headers.append("Retry-After")
    return {
        "description": words,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _security_schemes(rpcs: list[Rpc]) -> Schema:
    return {
        "oauth2": {
            "type": "oauth2",
            "description": "The issuer differs by environment: its discovery document names the "
            "token endpoint.",
            "flows": {
                "clientCredentials": {
                    "tokenUrl": "https://issuer.example/oauth2/token",
                    "scopes": {
                        scope: "For "
                        + ", ".join(_title(rpc) for rpc in rpcs if rpc.scope == scope)
                        + "."
                        for scope in sorted({rpc.scope for rpc in rpcs})
                    },
                }
            },
        },
        "token": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A token you have already; `make token` prints one of the demo's.",
        },
    }


def _title(rpc: Rpc) -> str:
    return rpc.name.rpartition(".")[2]


def _catalogue(contract: Contract, schemas: Schemas) -> Schema:
    """Lists every reason with what it means: as a table to read, and as data for programs."""
    entries = [entry for enum in contract.reasons for entry in _entries(enum, contract, schemas)]
    rows = [f"| `{e['reason']}` | {e['service']} | {e['meaning']} |" for e in entries]
    return {
        "type": "string",
        "description": "\n".join(
            [
                "Why a call was refused; stable. Reasons may be added.",
                "",
                "| reason | by | meaning |",
                "|---|---|---|",
                *rows,
            ]
        ),
        "examples": ["FIELD_INVALID"],
        "x-error-catalogue": entries,
    }


def _entries(enum: EnumDescriptor, contract: Contract, schemas: Schemas) -> Iterator[Schema]:
    package = enum.file.package
    for value in enum.values:
        if not value.number:
            continue
        name = f"{enum.full_name}.{value.name}"
        if name not in contract.comments:
            raise ContractError(f"{name}: no comment; the catalogue is made of them.")
        _, _, example = contract.comments[name].partition("\nExample: ")
        entry: Schema = {
            "reason": value.name.removeprefix("ERROR_REASON_"),
            "service": "all" if package == SHARED_PACKAGE else package.split(".")[1],
            "meaning": schemas.prose(name).partition(" Example: ")[0],
        }
        if example:
            entry["example"] = json.loads(example)
        yield entry
