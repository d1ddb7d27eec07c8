"""Turns the contract's JSON into results and requests into it; protobuf's JSON mapping.

protobuf.dev/programming-guides/json: 64-bit integers are texts, times RFC 3339, names camelCase.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from smartpay_client.words import Word

T = TypeVar("T")


class UnreadableError(ValueError):
    """JSON that is not of the contract's shape."""


def parse(body: bytes) -> dict[str, Any]:
    """Reads a JSON object; raises UnreadableError."""
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise UnreadableError("no JSON") from error
    return _object(parsed)


def decode(kind: type[T], data: object) -> T:
    """Makes a result of its JSON; unknown fields are left out, absent ones get their default.

    Raises:
        UnreadableError: naming the field.
    """
    readers: dict[str, tuple[str, Callable[[Any], Any]]] = _readers(cast("Hashable", kind))
    given, values = _object(data), {}
    for name, (camel, convert) in readers.items():
        if given.get(camel) is not None:
            try:
                values[name] = convert(given[camel])
            except (TypeError, ValueError, AttributeError) as error:
                raise UnreadableError(f"{camel}: {error}") from error
    return kind(**values)


def _object(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UnreadableError("no JSON object")
    return data


def camel_case(name: str) -> str:
    """Spells a field as JSON does."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


@cache
def _readers(kind: Hashable) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    result = cast("type[Any]", kind)
    hints = get_type_hints(result)
    return {f.name: (camel_case(f.name), _reader(hints[f.name])) for f in fields(result)}


def _reader(hint: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - a type, or a form of typing
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return _reader(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        single = _reader(arguments[0])
        return lambda items: tuple(single(item) for item in items)
    if origin is not None and issubclass(origin, Mapping):
        return _object
    if hint is datetime:
        return datetime.fromisoformat
    if is_dataclass(hint):
        return partial(decode, cast("type[Any]", hint))
    if hint in (str, bool):
        return lambda value: _exactly(hint, value)
    read: Callable[[Any], Any] = hint  # int, float and words read themselves
    return read


def _exactly(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise UnreadableError(f"no {kind.__name__}")
    return value


def encode(value: object) -> Any:  # noqa: ANN401 - JSON
    """Spells a value of a request.

    Raises:
        ValueError: for a time without a zone: the edge could only guess.
    """
    match value:
        case Word():
            return value.wire
        case datetime():
            if value.tzinfo is None:
                raise ValueError("a time needs a time zone, for instance datetime.now(UTC)")
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case str() | bool() | int() | float() | None:
            return value
        case Mapping():
            return {str(name): encode(item) for name, item in value.items()}
        case Iterable():
            return [encode(item) for item in value]
    if is_dataclass(value):
        return {
            camel_case(f.name): encode(held)
            for f in fields(value)
            if (held := getattr(value, f.name)) is not None
        }
    raise TypeError(f"{type(value).__name__} can't be sent")


def spell(request: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Spells a request whose fields are named by the caller.

    Args:
        request: a TypedDict of the contract.
        values: what the caller named; None counts as not named.

    Raises:
        TypeError: for a name the contract doesn't know, or one that is missing, as Python would.
    """
    hints = get_type_hints(request)
    given = {name: value for name, value in values.items() if value is not None}
    if unknown := sorted(given.keys() - hints.keys()):
        raise TypeError(f"unexpected argument {unknown[0]!r}")
    if missing := sorted(request.__required_keys__ - given.keys()):
        raise TypeError(f"missing argument {missing[0]!r}")
    return {camel_case(name): encode(_word(hints[name], value)) for name, value in given.items()}


def _word(hint: Any, value: object) -> object:  # noqa: ANN401 - a type, or a form of typing
    for kind in get_args(hint):
        if isinstance(kind, type) and issubclass(kind, Word) and isinstance(value, str):
            return kind(value)
    return value
