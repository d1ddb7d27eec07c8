"""Checks each request against the contract's own rules before a service sees it."""

from __future__ import annotations

from typing import Any

import protovalidate
from google.protobuf.message import Message

from smartpay_chassis.card_numbers import field_with_card_number
from smartpay_chassis.refusals import Kind, Refusal, Violation, invalid_fields

_validator = protovalidate.Validator()
# protovalidate's own texts for these speak of lists and patterns, not of what to do.
_PLAIN_WORDS = {
    "required": "is required",
    "enum.not_in": "is required",
    "enum.defined_only": "must be one of the documented names",
}


def check_request(request: Message, *, card_numbers: bool = True) -> None:
    """Refuses a request that breaks a rule of the contract or holds a card number.

    Args:
        request: as it came.
        card_numbers: False leaves those out, for a signed body that is read and not kept.

    Raises:
        Refusal: FIELD_INVALID with every broken rule, or CARD_NUMBER_REFUSED.
    """
    found = _validator.collect_violations(request)
    if found:
        raise invalid_fields(tuple(_violation(v.proto, request) for v in found))
    field = field_with_card_number(request) if card_numbers else None
    if field is not None:
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "CARD_NUMBER_REFUSED",
            f"{field} holds what looks like a card number; nothing was stored or logged.",
            remedy="Send the processor's token of the card, never the number itself.",
            field=field,
        )


def warm_up(message_type: type[Message]) -> None:
    """Compiles the rules of a message type, which takes the first call some 10 ms."""
    _validator.collect_violations(message_type())


def _violation(proto: Any, request: Message) -> Violation:  # noqa: ANN401 - a private type
    path = ""
    for element in proto.field.elements if proto.field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None and subscript.field == "index":
            path += f"[{subscript.value}]"
    rule = proto.rule_id
    if not path:
        # A rule of the whole message has no path; its id begins with the field that is to change.
        field, _, _ = rule.partition(".")
        path = field if field in request.DESCRIPTOR.fields_by_name else ""
    return Violation(path, _PLAIN_WORDS.get(rule, proto.message), rule)
