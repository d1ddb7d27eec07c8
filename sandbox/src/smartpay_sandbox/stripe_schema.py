"""Stripe's wire as the `stripe` package's own annotations describe it, so nothing is typed twice.

Requests are read against the `*Params` TypedDicts (form strings become ints and bools on the
way); responses are checked against the StripeObject classes. Where an annotation offers a Literal
beside an open `str`, the Literal is demanded: the open arm is there for API versions to come.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ForwardRef, Literal, NotRequired, Required, Union, get_args, get_origin

import stripe
import typing_extensions
from stripe._request_options import RequestOptions

from smartpay_sandbox.stripe_refusals import StripeRefusalError, invalid

Annotation = Any
"""Whatever Python lets a module write after a colon."""
Reader = Callable[[object, str], Any]
"""Turns a form value into the annotated type, or raises StripeRefusalError naming the parameter."""
Checker = Callable[[object, str], list[str]]
"""Lists what is wrong with a response value; empty when it fits."""

_MARKS: tuple[Annotation, ...] = (NotRequired, Required)
_WHOLE_NUMBER = re.compile(r"-?\d{1,18}\Z")
_CLIENT_OPTIONS = frozenset(RequestOptions.__annotations__)


def read_request(params: type, form: Mapping[str, Any]) -> dict[str, Any]:
    """Check a decoded form against a `*Params` TypedDict and give its values their types.

    Raises:
        StripeRefusalError: 400 in Stripe's shape, naming the parameter.
    """
    read: dict[str, Any] = _typed_dict_reader(params)(form, "")
    return read


def check_response(shape: Annotation, body: object) -> list[str]:
    """List every way in which a response body breaks a StripeObject class (empty: it fits)."""
    return _checker(shape, shape)(body, getattr(shape, "__name__", "list"))


# --- requests ---------------------------------------------------------------------------------


@cache
def _typed_dict_reader(params: type) -> Reader:
    fields = {
        name: _resolve(annotation, params)
        for name, annotation in params.__annotations__.items()
        if name not in _CLIENT_OPTIONS
    }
    required = [name for name in params.__required_keys__ if name in fields]  # type: ignore[attr-defined]
    readers: dict[str, Reader] = {}

    def read(form: object, path: str) -> dict[str, Any]:
        if not isinstance(form, Mapping):
            raise invalid("Invalid object", param=path)
        found: dict[str, Any] = {}
        for name, value in form.items():
            where = f"{path}[{name}]" if path else name
            reader = readers.get(name)
            if reader is None:
                if name not in fields:
                    raise invalid(
                        f"Received unknown parameter: {where}", "parameter_unknown", where
                    )
                reader = readers[name] = _reader(fields[name], params)
            found[name] = reader(value, where)
        for name in required:
            if name not in found:
                where = f"{path}[{name}]" if path else name
                raise invalid(f"Missing required param: {where}.", "parameter_missing", where)
        return found

    return read


def _reader(annotation: Annotation, owner: type) -> Reader:
    annotation = _resolve(annotation, owner)
    origin: Annotation = get_origin(annotation)
    if typing_extensions.is_typeddict(annotation):
        return _typed_dict_reader(annotation)
    if origin is Literal:
        return _literal_reader(get_args(annotation))
    if origin in (Union, types.UnionType):
        return _union_reader(_arms(annotation, owner), owner)
    if origin is list:
        return _list_reader(_reader(get_args(annotation)[0], owner))
    if origin is dict or _is_open_map(annotation):
        return _text_map
    if annotation in (str, int, bool, float):
        return {str: _text, int: _whole, bool: _truth, float: _text}[annotation]
    raise TypeError(f"{owner.__name__} holds an annotation the walker does not know: {annotation}")


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise invalid("Invalid string", param=path)
    return value


def _whole(value: object, path: str) -> int:
    if not isinstance(value, str) or not _WHOLE_NUMBER.match(value):
        raise invalid(f"Invalid integer: {value}", "parameter_invalid_integer", path)
    return int(value)


def _truth(value: object, path: str) -> bool:
    if value not in ("true", "false"):
        raise invalid(f"Invalid boolean: {value}", param=path)
    return bool(value == "true")


def _text_map(value: object, path: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise invalid("Invalid object", param=path)
    return {name: _text(item, f"{path}[{name}]") for name, item in value.items()}


def _literal_reader(words: tuple[Any, ...]) -> Reader:
    def read(value: object, path: str) -> str:
        if value not in words:
            name = path.rsplit("[", 1)[-1].rstrip("]")
            raise invalid(f"Invalid {name}: must be one of {', '.join(words)}", param=path)
        return str(value)

    return read


def _list_reader(item: Reader) -> Reader:
    def read(value: object, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise invalid("Invalid array", param=path)
        return [item(entry, f"{path}[{index}]") for index, entry in enumerate(value)]

    return read


def _union_reader(arms: list[Any], owner: type) -> Reader:
    readers = [_reader(arm, owner) for arm in arms]

    def read(value: object, path: str) -> object:
        refusals: list[StripeRefusalError] = []
        for reader in readers:
            try:
                return reader(value, path)
            except StripeRefusalError as refusal:
                refusals.append(refusal)
        # The arm that came furthest says most: a nested field beats "wrong kind of value".
        raise max(refusals, key=lambda refusal: len(refusal.error.get("param") or ""))

    return read


# --- responses --------------------------------------------------------------------------------


@cache
def _object_checker(shape: Annotation) -> Checker:
    fields = {
        name: _resolve(annotation, shape)
        for name, annotation in _own_annotations(shape).items()
        if get_origin(annotation) is not typing.ClassVar and not name.startswith("_")
    }
    checkers: dict[str, Checker] = {}

    def check(value: object, path: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{path}: expected a {shape.__name__}, got {value!r:.60}"]
        wrong = [f"{path}.{name}: unknown field" for name in value if name not in fields]
        for name, annotation in fields.items():
            if name not in value:
                if not _may_be_none(annotation):
                    wrong.append(f"{path}.{name}: missing")
                continue
            if name not in checkers:
                checkers[name] = _checker(annotation, shape)
            wrong += checkers[name](value[name], f"{path}.{name}")
        return wrong

    return check


def _checker(annotation: Annotation, owner: type) -> Checker:
    annotation = _resolve(annotation, owner)
    origin: Annotation = get_origin(annotation)
    if annotation is Any:
        return lambda value, path: []
    if annotation is type(None):
        return lambda value, path: [] if value is None else [f"{path}: expected null"]
    if origin is Literal:
        words = get_args(annotation)
        return lambda value, path: [] if value in words else [f"{path}: {value!r} not in {words}"]
    if origin in (Union, types.UnionType):
        return _any_of([_checker(arm, owner) for arm in _arms(annotation, owner)])
    if origin is list:
        return _list_of(_checker(get_args(annotation)[0], owner))
    if origin is stripe.ListObject:
        return _page_of(_checker(get_args(annotation)[0], owner))
    if origin is dict or _is_open_map(annotation):
        return _map_of(_checker((get_args(annotation) or (Any,))[-1], owner))
    if isinstance(annotation, type) and issubclass(annotation, stripe.StripeObject):
        known: Annotation = annotation
        return _object_checker(known)
    if annotation in (str, int, bool, float):
        return _exactly(annotation)
    raise TypeError(f"{owner.__name__} holds an annotation the walker does not know: {annotation}")


def _exactly(wanted: type) -> Checker:
    return lambda value, path: (
        [] if type(value) is wanted else [f"{path}: expected {wanted.__name__}, got {value!r:.60}"]
    )


def _any_of(checkers: list[Checker]) -> Checker:
    def check(value: object, path: str) -> list[str]:
        findings = []
        for checker in checkers:
            wrong = checker(value, path)
            if not wrong:
                return []
            findings.append(wrong)
        # An object that fits no arm is judged by the arm with the fewest complaints inside it.
        nested = [wrong for wrong in findings if not wrong[0].startswith(f"{path}:")]
        return min(nested or findings, key=len)

    return check


def _list_of(item: Checker) -> Checker:
    def check(value: object, path: str) -> list[str]:
        if not isinstance(value, list):
            return [f"{path}: expected a list, got {value!r:.60}"]
        return [w for index, entry in enumerate(value) for w in item(entry, f"{path}[{index}]")]

    return check


def _page_of(item: Checker) -> Checker:
    entries = _list_of(item)

    def check(value: object, path: str) -> list[str]:
        if not isinstance(value, dict) or set(value) != {"object", "data", "has_more", "url"}:
            return [f"{path}: expected a list object, got {value!r:.60}"]
        if value["object"] != "list" or type(value["has_more"]) is not bool:
            return [f"{path}: a list says object=list and has_more=true or false"]
        return entries(value["data"], f"{path}.data")

    return check


def _map_of(item: Checker) -> Checker:
    def check(value: object, path: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{path}: expected an object, got {value!r:.60}"]
        return [w for name, entry in value.items() for w in item(entry, f"{path}.{name}")]

    return check


# --- annotations ------------------------------------------------------------------------------


def _arms(annotation: Annotation, owner: type) -> list[Any]:
    arms = [_resolve(arm, owner) for arm in get_args(annotation)]
    if any(get_origin(arm) is Literal and get_args(arm) != ("",) for arm in arms):
        arms = [arm for arm in arms if arm is not str]
    return arms


def _may_be_none(annotation: Annotation) -> bool:
    return annotation is Any or type(None) in get_args(annotation)


def _is_open_map(annotation: Annotation) -> bool:
    name = getattr(get_origin(annotation) or annotation, "__name__", "")
    return bool(name == "UntypedStripeObject")


def _own_annotations(shape: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(shape.__mro__):
        if base.__module__.startswith("stripe.") and base is not stripe.StripeObject:
            found |= inspect.get_annotations(base)
    return found


def _resolve(annotation: Annotation, owner: type) -> Annotation:
    """Peel NotRequired/Required and evaluate forward references in the module that wrote them."""
    while True:
        if isinstance(annotation, ForwardRef):
            annotation = annotation.__forward_arg__
        if isinstance(annotation, str):
            annotation = eval(annotation, _names(owner.__module__))  # the SDK's own source
        elif get_origin(annotation) in _MARKS:
            annotation = get_args(annotation)[0]
        else:
            return annotation


class _Names(dict[str, Any]):
    """A module's names, plus those it imports only for type checkers, fetched when asked for."""

    def __init__(self, module: str) -> None:
        super().__init__(vars(sys.modules[module]))
        self._for_checkers: dict[str, tuple[str, str]] = {}
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self._for_checkers[alias.asname or alias.name] = (node.module, alias.name)

    def __missing__(self, name: str) -> object:
        module, attribute = self._for_checkers[name]
        return getattr(importlib.import_module(module), attribute)


@cache
def _names(module: str) -> _Names:
    return _Names(module)


# --- completeness -----------------------------------------------------------------------------


def unresolved_request_fields(params: type) -> list[str]:
    """Name the top-level parameters whose annotation the walker cannot follow; for tests."""
    names = set(params.__annotations__) - _CLIENT_OPTIONS
    return _unfollowed(names, lambda name: _reader(params.__annotations__[name], params))


def unresolved_response_fields(shape: Annotation) -> list[str]:
    """Name the fields of a StripeObject that the walker cannot follow; for tests."""
    shape = (get_args(shape) or (shape,))[0]  # a list is told by its entries
    annotations = _own_annotations(shape)
    names = {name for name in annotations if get_origin(annotations[name]) is not typing.ClassVar}
    return _unfollowed(names, lambda name: _checker(annotations[name], shape))


def _unfollowed(names: set[str], follow: Callable[[str], object]) -> list[str]:
    failed = []
    for name in sorted(names):
        try:
            follow(name)
        except (TypeError, KeyError, NameError, AttributeError) as cause:
            failed.append(f"{name}: {cause!r}")
    return failed
