"""Writes the contract's words, results and spelt requests."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from google.api import field_behavior_pb2
from google.protobuf import descriptor_pb2

from generator.contract import (
    BEHAVIOR,
    SPELT_BY_NAME,
    TIMESTAMP,
    Contract,
    Field,
    Named,
    message_of,
    needed,
    snake,
)

WIDTH = 100
# What the results can do beside holding fields is written by hand.
BASES = {"Payment": "PaymentStanding", "Refund": "RefundStanding", "Money": "WholeUnits"}
# Absent money is no money, so that sums need no question first.
NEVER_ABSENT = ("Money",)
# What callers may give in place of a message.
EASIER_IN_REQUESTS = {"Instrument": "Instrument | Mapping[str, str]"}
# In no repr.
SECRETS = ("secret", "secret_key", "private_key", "refund_secret_key")
SCALARS = {
    Field.TYPE_STRING: ("str", '""'),
    Field.TYPE_BOOL: ("bool", "False"),
    Field.TYPE_INT32: ("int", "0"),
    Field.TYPE_INT64: ("int", "0"),
    Field.TYPE_DOUBLE: ("float", "0.0"),
}


def _annotation(contract: Contract, part: Field, *, request: bool) -> tuple[str, str]:
    """Answers a field's type and its default, in Python."""
    if part.type == Field.TYPE_MESSAGE and part.type_name != TIMESTAMP:
        proto = message_of(contract, part.type_name)
        if proto.options.map_entry:
            kinds = ", ".join(_annotation(contract, f, request=request)[0] for f in proto.field)
            return f"Mapping[{kinds}]", "field(default_factory=dict)"
    if part.label == Field.LABEL_REPEATED:
        single = Field()
        single.CopyFrom(part)
        single.label = Field.LABEL_OPTIONAL
        kind = _annotation(contract, single, request=request)[0].removesuffix(" | None")
        return f"tuple[{kind}, ...]", "()"
    if part.type == Field.TYPE_MESSAGE:
        is_time = part.type_name == TIMESTAMP
        kind = "datetime" if is_time else contract.known[part.type_name].name
        if request:
            return EASIER_IN_REQUESTS.get(kind, kind), ""
        return (kind, f"{kind}()") if kind in NEVER_ABSENT else (f"{kind} | None", "None")
    if part.type == Field.TYPE_ENUM:
        kind = contract.known[part.type_name].name
        return (f"{kind} | str", "") if request else (kind, f"{kind}.UNSPECIFIED")
    kind, default = SCALARS[part.type]
    if part.proto3_optional and not request:
        return f"{kind} | None", "None"
    return kind, f"field(default={default}, repr=False)" if part.name in SECRETS else default


def docstring(
    summary: str, items: dict[str, str], *, title: str = "Attributes", indent: str = "    "
) -> Iterator[str]:
    """Writes a docstring: the first sentence, the others, and a section of items."""

    def filled(text: str, deeper: int) -> str:
        first = indent + " " * deeper
        return textwrap.fill(
            text,
            WIDTH,
            initial_indent=first,
            subsequent_indent=first + "    " * bool(deeper),
            break_on_hyphens=False,
        )

    first, _, rest = summary.partition(". ")
    raw = "r" if any("\\" in text for text in (summary, *items.values())) else ""
    yield f'{indent}{raw}"""{first.rstrip(".")}.'
    if rest:
        yield ""
        yield filled(rest, 0)
    if items:
        yield ""
        yield f"{indent}{title}:"
        yield from (filled(f"{name}: {comment}", 4) for name, comment in items.items())
    yield f'{indent}"""'


def _prefix(enum: descriptor_pb2.EnumDescriptorProto) -> str:
    return snake(enum.name).upper() + "_"


def _enum(named: Named, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    prefix = _prefix(enum)
    values = {v.name.removeprefix(prefix): named.comments[v.name] for v in enum.value}
    yield f'class {named.name}(Word, prefix="{prefix}"):'
    yield from docstring(named.comments[""], values)
    yield ""
    yield from (f'    {name} = "{name}"' for name in values)


def _result(contract: Contract, named: Named, proto: descriptor_pb2.DescriptorProto) -> list[str]:
    base = f"({BASES[named.name]})" if named.name in BASES else ""
    lines = ["@dataclass(frozen=True)", f"class {named.name}{base}:"]
    lines += docstring(named.comments[""], {f.name: named.comments[f.name] for f in proto.field})
    lines.append("")
    for part in proto.field:
        kind, default = _annotation(contract, part, request=False)
        lines.append(f"    {part.name}: {kind} = {default}")
    return lines


def _spelt(contract: Contract, named: Named, proto: descriptor_pb2.DescriptorProto) -> list[str]:
    lines = [f"class {named.name}(TypedDict):"]
    lines += docstring(named.comments[""], {f.name: named.comments[f.name] for f in proto.field})
    lines.append("")
    for part in proto.field:
        kind, _ = _annotation(contract, part, request=True)
        is_required = field_behavior_pb2.REQUIRED in part.options.Extensions[BEHAVIOR]
        lines.append(f"    {part.name}: {'Required' if is_required else 'NotRequired'}[{kind}]")
    return lines


def types_module(contract: Contract) -> str:
    """Writes the words, results and spelt requests."""
    lines = [
        '"""The contract\'s words and results; generated by `make protos`, never edited."""',
        "",
        "from collections.abc import Mapping",
        "from dataclasses import dataclass, field",
        "from datetime import datetime",
        "from typing import NotRequired, Required, TypedDict",
        "",
        "from smartpay_client.standing import PaymentStanding, RefundStanding, WholeUnits",
        "from smartpay_client.words import Word",
    ]
    names: set[str] = set()
    for full in needed(contract):
        named = contract.known[full]
        if named.name in names:
            raise ValueError(f"two types would be called {named.name}; name one in NAMES: {full}")
        names.add(named.name)
        lines += ["", ""]
        if isinstance(named.proto, descriptor_pb2.EnumDescriptorProto):
            lines += _enum(named, named.proto)
        elif full in SPELT_BY_NAME:
            lines += _spelt(contract, named, named.proto)
        else:
            lines += _result(contract, named, named.proto)
    return "\n".join(lines) + "\n"
