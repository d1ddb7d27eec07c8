"""Card numbers: found in texts, so that they are refused before anything stores or logs them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from smartpay_chassis.ids import is_id

# People group digits with white space, dots and hyphens.
_DIGIT_RUN = re.compile(r"\d(?:[\s.\-]{0,3}\d){11,}")
_SEPARATORS = re.compile(r"[\s.\-]+")
# Prefix and lengths per network (ISO/IEC 7812 ranges as the networks publish them).
_NETWORKS = (
    (re.compile(r"4"), (13, 16, 19)),  # Visa
    (re.compile(r"5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"6(?:011|4[4-9]|5)"), (16, 17, 18, 19)),  # Discover
    (re.compile(r"3(?:0[0-5]|09|[689])"), (14, 15, 16, 17, 18, 19)),  # Diners Club
    (re.compile(r"35(?:2[89]|[3-8])"), (16, 17, 18, 19)),  # JCB
    (re.compile(r"62|81"), (16, 17, 18, 19)),  # UnionPay
    (
        re.compile(r"5018|5020|5038|5893|6304|6759|676[1-3]"),
        (13, 14, 15, 16, 17, 18, 19),
    ),  # Maestro
)


_LONGEST = 19
_SHORTEST = 13
_TEXTS_AND_MESSAGES = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)


def _passes_luhn(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_card_number(digits: str) -> bool:
    return any(
        len(digits) in lengths and prefix.match(digits) for prefix, lengths in _NETWORKS
    ) and _passes_luhn(digits)


def holds_card_number(text: str) -> bool:
    """Tells whether a digit run has a network's prefix and length and passes Luhn (ISO/IEC 7812-1).

    Groups of digits count singly and joined, so a number next to another one is found too.
    """
    # Full-width and other digits are read as what they look like, and one sign may stand for two.
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    if len(plain) < _SHORTEST or is_id(text):
        return False
    for run in _DIGIT_RUN.finditer(plain):
        groups = _SEPARATORS.split(run.group())
        for first in range(len(groups)):
            for last in range(first, len(groups)):
                digits = "".join(groups[first : last + 1])
                if len(digits) > _LONGEST:
                    break
                if _is_card_number(digits):
                    return True
    return False


def field_with_card_number(message: Message, path: str = "") -> str | None:
    """Finds the first text of a message that holds a card number; answers its path or None."""
    for field, value in message.ListFields():
        if field.type not in _TEXTS_AND_MESSAGES:
            continue
        here = f"{path}.{field.name}" if path else field.name
        for text_path, text in _texts(field, value, here):
            if isinstance(text, str):
                if holds_card_number(text):
                    return text_path
            elif (found := field_with_card_number(text, text_path)) is not None:
                return found
    return None


def _texts(field: FieldDescriptor, value: object, path: str) -> Iterator[tuple[str, str | Message]]:
    if not field.is_repeated:
        yield path, value  # type: ignore[misc]
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        for key, item in value.items():  # type: ignore[attr-defined]
            if isinstance(key, str):
                yield path, key
            if isinstance(item, str | Message):
                yield path, item
    else:
        for index, item in enumerate(value):  # type: ignore[arg-type]
            yield f"{path}[{index}]", item
