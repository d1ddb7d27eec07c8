"""Stripe's form encoding: `a[b][c]=v`, `a[]=v` and `a[0]=v`, as its SDKs write it."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from smartpay_sandbox.stripe_refusals import invalid

FIELDS_MAX = 1000
"""Far above the largest request of a payment, and low enough to stay cheap."""


def decode_form(encoded: str) -> dict[str, Any]:
    """Decode a body or query string into nested dicts and lists of strings.

    Raises:
        StripeRefusalError: 400 if the text is no form, has too many fields, or names one both as a
            value and as an object.
    """
    try:
        pairs = parse_qsl(
            encoded, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict"
        )
    except ValueError as cause:
        raise invalid("The request is not a valid form of at most 1000 fields.") from cause
    form: dict[str, Any] = {}
    nested = False
    for name, value in pairs:
        if "[" not in name:
            if name in form:
                raise invalid(f"Received the parameter twice: {name}", param=name)
            form[name] = value
            continue
        nested = True
        head, *steps = name.split("[")
        node = form
        key = head
        for step in steps:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise invalid(f"Received as value and as object: {head}", param=head)
            key = step.rstrip("]") or str(len(node))
        if key in node:
            raise invalid(f"Received the parameter twice: {name}", param=name)
        node[key] = value
    return _with_lists(form) if nested else form


def _with_lists(node: dict[str, Any]) -> dict[str, Any]:
    return {name: _listed(value) for name, value in node.items()}


def _listed(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if all(name.isdigit() for name in value):
        return [_listed(value[name]) for name in sorted(value, key=int)]
    return _with_lists(value)
