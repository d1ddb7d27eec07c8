"""Writes the edge's Lua: the key table generated from the contract, and the two scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from smartpay_gateway import limits
from smartpay_gateway.contract import RAW_BODY, Binding, ContractError, Method

LUA = Path(__file__).parent / "lua"

# These have a JSON form of their own (https://protobuf.dev/programming-guides/json/): a text or
# a value without keys of ours.
WELL_KNOWN = "google.protobuf."
FREE = {"google.protobuf.Value", "google.protobuf.ListValue"}
_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=\*)?\}")
_COLLECT_LESS = f'collectgarbage("setpause", {limits.LUA_HEAP_PERCENT})'


def strict_input_script(methods: Iterable[Method]) -> str:
    """Joins JSON reader, table and rules into the script that refuses what the contract lacks."""
    return "\n".join(
        [
            _COLLECT_LESS,
            f"local BODY_BYTES = {limits.BODY_BYTES}",
            *_table(tuple(methods)),
            *map(_read, ("json.lua", "native.lua", "verbs.lua", "strict_input.lua")),
        ]
    )


def answer_script(methods: Sequence[Method]) -> str:
    """Joins JSON reader, table, wording and answers into the script that shapes REST's answers."""
    return "\n".join(
        [
            _COLLECT_LESS,
            "local shapes = {}",
            *_answers(methods),
            *_spellings(methods),
            *map(_read, ("json.lua", "native.lua", "problem.lua", "answer.lua")),
        ]
    )


def _read(name: str) -> str:
    return (LUA / name).read_text()


def _table(methods: tuple[Method, ...]) -> Iterator[str]:
    shapes: dict[str, Descriptor] = {}
    routes = []
    for method in methods:
        for binding in method.bindings:
            routes.append(_route(method, binding, shapes))
    pending = list(shapes.values())
    while pending:
        for field in pending.pop().fields:
            child = _child(field)
            if child is not None and child.full_name not in shapes:
                shapes[child.full_name] = child
                pending.append(child)
    yield "-- Generated from the contract: fields by both their names, with what they hold."
    yield "local shapes = {}"
    for name in sorted(shapes):
        yield f'shapes["{name}"] = {{'
        for field in shapes[name].fields:
            yield from _field(field)
        yield "}"
    yield "-- Generated from the contract: REST routes, and the paths of native gRPC."
    yield "local routes = {"
    yield from routes
    yield "}"
    yield "local native_paths = {"
    # What needs no token needs no second door either.
    yield from (f'  ["{method.path}"] = true,' for method in methods if not method.signed)
    yield "}"


def _answers(methods: Iterable[Method]) -> Iterator[str]:
    yield "-- Generated from the contract: what REST does with an rpc's answer."
    yield "local rpcs = {"
    for method in methods:
        settings = ["stream = true"] if method.streams else []
        if field := _unwrapped(method):
            settings.append(f"opening = '{{\"{field}\":'")
        if settings:
            yield f'  ["{method.path}"] = {{ {", ".join(settings)} }},'
    yield "}"


def _spellings(methods: Iterable[Method]) -> Iterator[str]:
    spellings: dict[str, str] = {}
    pending = [method.request for method in methods if method.bindings]
    known = set(pending)
    while pending:
        for field in pending.pop().fields:
            if "_" in field.name:
                spellings[field.name] = field.json_name
            child = _child(field)
            if child is not None and child not in known:
                known.add(child)
                pending.append(child)
    yield "-- Generated from the contract: how REST spells the fields of requests."
    yield "local spellings = {"
    yield from (f'  {name} = "{json_name}",' for name, json_name in sorted(spellings.items()))
    yield "}"


def _unwrapped(method: Method) -> str:
    """Finds the one field that is REST's body; the answer's script knows the rpc, not the route."""
    names = {binding.response_body for binding in method.bindings}
    if len(names) > 1:
        raise ContractError(f"{method.path}: all routes must have the same response_body.")
    name: str = names.pop() if names else ""
    if not name:
        return ""
    field = method.response.fields_by_name[name]
    if field.message_type is None or field.is_repeated:
        raise ContractError(f"{method.path}: response_body must be one message.")
    json_name: str = field.json_name
    return json_name


def _field(field: FieldDescriptor) -> Iterator[str]:
    child = _child(field)
    entry = f'name = "{field.json_name}"'
    if child is not None:
        entry += f', shape = "{child.full_name}"'
    if _is_map(field):
        entry += ", map = true"
    if not _is_free(field):
        entry += f", list = {str(field.is_repeated and not _is_map(field)).lower()}"
    for key in dict.fromkeys((field.json_name, field.name)):
        yield f'  ["{key}"] = {{ {entry} }},'


def _is_free(field: FieldDescriptor) -> bool:
    """Says whether the field's JSON may be of any kind: google.protobuf.Struct and its like."""
    message = field.message_type
    return message is not None and message.full_name in FREE


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _child(field: FieldDescriptor) -> Descriptor | None:
    """Finds the message whose keys the field's value has; none for scalars and free values."""
    message = field.message_type
    if message is not None and _is_map(field):
        message = message.fields_by_name["value"].message_type
    if message is None or message.full_name.startswith(WELL_KNOWN):
        return None
    return message


def _route(method: Method, binding: Binding, shapes: dict[str, Descriptor]) -> str:
    bound = _VARIABLE.findall(binding.path)
    if "{" in _VARIABLE.sub("", binding.path) or "*" in _VARIABLE.sub("", binding.path):
        raise ContractError(f"{method.path}: {binding.path}: only {{field}} variables are known.")
    literal_and_variables = _VARIABLE.split(binding.path)
    pattern = "".join(
        "([^/:]+)" if index % 2 else re.sub(r"([^A-Za-z0-9/:_])", r"%\1", part)
        for index, part in enumerate(literal_and_variables)
    )
    body = _body(method, binding)
    settings = [f'verb = "{binding.verb}"', f'pattern = "^{pattern}$"']
    if body is not None and body.full_name == RAW_BODY:
        settings.append("raw = true")
    elif body is not None:
        shapes[body.full_name] = body
        settings.append(f'shape = "{body.full_name}"')
    settings.append(f"bound = {_table_of(_names(method.request, bound))}")
    queryable = {}
    if binding.body != "*":
        queryable = _parameters(method.request, {binding.body, *bound})
    settings.append(f"query = {_table_of(queryable)}")
    return f"  {{ {', '.join(settings)} }},"


def _body(method: Method, binding: Binding) -> Descriptor | None:
    if not binding.body:
        return None
    message: Descriptor | None = method.request
    if binding.body != "*":
        message = method.request.fields_by_name[binding.body].message_type
    if message is None:
        raise ContractError(f"{method.path}: body {binding.body!r} is no message.")
    return message


def _names(message: Descriptor, fields: Iterable[str]) -> dict[str, str]:
    return {
        name: "true"
        for field in fields
        for name in (field, message.fields_by_name[field].json_name)
    }


def _parameters(message: Descriptor, taken: set[str], *outer: FieldDescriptor) -> dict[str, str]:
    """Lists the query parameters a route takes: scalar fields, nested ones joined by dots."""
    parameters: dict[str, str] = {}
    for field in message.fields:
        if field.name in taken or _is_map(field):
            continue
        path = (*outer, field)
        child = _child(field)
        if child is None:
            name = ".".join(step.json_name for step in path)
            repeated = ", repeated = true" if field.is_repeated else ""
            for key in (".".join(step.name for step in path), name):
                parameters[key] = f'{{ name = "{name}"{repeated} }}'
        elif not field.is_repeated:
            parameters |= _parameters(child, set(), *path)
    return parameters


def _table_of(entries: dict[str, str]) -> str:
    return "{ " + "".join(f'["{key}"] = {value}, ' for key, value in entries.items()) + "}"
