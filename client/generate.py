"""Generates the client's methods, results and words from the contract; `make protos` runs it.

Needs the contract's stubs and ruff; the client itself needs neither.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf import descriptor_pb2

from smartpay.access.v1 import access_pb2

HERE = Path(__file__).resolve().parent
DESCRIPTORS = HERE.parent / "protos" / "gen" / "smartpay.binpb"
TARGET = HERE / "src" / "smartpay_client"
WIDTH = 100
# Requests with so many fields that callers spell them by name.
SPELT_BY_NAME = (".smartpay.payments.v1.CreatePaymentRequest", ".smartpay.fraud.v1.ScoreRequest")
# What the results can do beside holding fields is written by hand.
BASES = {"Payment": "PaymentStanding", "Refund": "RefundStanding", "Money": "WholeUnits"}
# Absent money is no money, so that sums need no question first.
NEVER_ABSENT = ("Money",)
EASIER_IN_REQUESTS = {"Instrument": "Instrument | Mapping[str, str]"}
TIMESTAMP = ".google.protobuf.Timestamp"
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    Field.TYPE_STRING: ("str", '""'),
    Field.TYPE_BOOL: ("bool", "False"),
    Field.TYPE_INT32: ("int", "0"),
    Field.TYPE_INT64: ("int", "0"),
    Field.TYPE_DOUBLE: ("float", "0.0"),
}
LEVELS = descriptor_pb2.MethodOptions.IdempotencyLevel
# google.api's stubs leave open what the extensions hold.
HTTP: Any = annotations_pb2.http
BEHAVIOR: Any = field_behavior_pb2.field_behavior


@dataclass(frozen=True)
class Named:
    """A message or an enum of the contract with the name it gets here and its comments."""

    name: str
    proto: descriptor_pb2.DescriptorProto | descriptor_pb2.EnumDescriptorProto
    comments: dict[str, str]


@dataclass
class Contract:
    """What the descriptor set says, by full names with a leading dot."""

    known: dict[str, Named] = field(default_factory=dict)
    methods: list[descriptor_pb2.MethodDescriptorProto] = field(default_factory=list)


def read(descriptors: Path) -> Contract:
    """Reads the contract with its comments."""
    contract = Contract()
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    for file in files.file:
        if not file.package.startswith("smartpay."):
            continue
        notes = {
            tuple(place.path): " ".join(place.leading_comments.split())
            for place in file.source_code_info.location
            if place.leading_comments
        }
        for number, enum in enumerate(file.enum_type):
            _add_enum(contract, f".{file.package}", "", enum, (5, number), notes)
        for number, message in enumerate(file.message_type):
            _add_message(contract, f".{file.package}", "", message, (4, number), notes)
        contract.methods += [method for service in file.service for method in service.method]
    return contract


def _add_enum(
    contract: Contract,
    scope: str,
    outer: str,
    enum: descriptor_pb2.EnumDescriptorProto,
    path: tuple[int, ...],
    notes: dict[tuple[int, ...], str],
) -> None:
    comments = {v.name: notes.get((*path, 2, n), "") for n, v in enumerate(enum.value)}
    comments[""] = notes.get(path, "")
    contract.known[f"{scope}.{enum.name}"] = Named(outer + enum.name, enum, comments)


def _add_message(
    contract: Contract,
    scope: str,
    outer: str,
    message: descriptor_pb2.DescriptorProto,
    path: tuple[int, ...],
    notes: dict[tuple[int, ...], str],
) -> None:
    comments = {f.name: notes.get((*path, 2, n), "") for n, f in enumerate(message.field)}
    comments[""] = notes.get(path, "")
    full, name = f"{scope}.{message.name}", outer + message.name
    contract.known[full] = Named(name, message, comments)
    for number, enum in enumerate(message.enum_type):
        _add_enum(contract, full, name, enum, (*path, 4, number), notes)
    for number, nested in enumerate(message.nested_type):
        _add_message(contract, full, name, nested, (*path, 3, number), notes)


def from_outside(contract: Contract) -> list[descriptor_pb2.MethodDescriptorProto]:
    """Lists the methods a merchant's token can reach over REST."""
    return [
        method
        for method in contract.methods
        if method.options.Extensions[access_pb2.access].scope and method.options.HasExtension(HTTP)
    ]


def _message(contract: Contract, full: str) -> descriptor_pb2.DescriptorProto:
    proto = contract.known[full].proto
    assert isinstance(proto, descriptor_pb2.DescriptorProto), full
    return proto


def needed(contract: Contract) -> list[str]:
    """Lists the types the client shows, each after what it is made of."""
    found: list[str] = []

    def visit(full: str) -> None:
        if full in found or full == TIMESTAMP:
            return
        proto = contract.known[full].proto
        if isinstance(proto, descriptor_pb2.DescriptorProto):
            if not proto.field:
                return
            for part in proto.field:
                if part.type_name:
                    visit(part.type_name)
            if proto.options.map_entry:
                return
        found.append(full)

    for method in from_outside(contract):
        answer, body = method.output_type, method.options.Extensions[HTTP].response_body
        if body:
            answer = next(f for f in _message(contract, answer).field if f.name == body).type_name
        visit(answer)
        for part in _message(contract, method.input_type).field:
            if part.type == Field.TYPE_ENUM:
                visit(part.type_name)
    for full in SPELT_BY_NAME:
        visit(full)
    return sorted(found, key=lambda full: full in SPELT_BY_NAME)


def _annotation(contract: Contract, part: Field, *, request: bool) -> tuple[str, str]:
    """Answers a field's type and its default, in Python."""
    if part.type == Field.TYPE_MESSAGE and part.type_name != TIMESTAMP:
        proto = _message(contract, part.type_name)
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
    return SCALARS[part.type]


def _docstring(summary: str, attributes: dict[str, str]) -> Iterator[str]:
    first, _, rest = summary.partition(". ")
    raw = "r" if any("\\" in text for text in (summary, *attributes.values())) else ""
    yield f'    {raw}"""{first.rstrip(".")}.'
    for paragraph in filter(None, [rest]):
        yield ""
        yield textwrap.fill(paragraph, WIDTH, initial_indent="    ", subsequent_indent="    ")
    yield ""
    yield "    Attributes:"
    for name, comment in attributes.items():
        yield textwrap.fill(
            f"{name}: {comment}", WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12
        )
    yield '    """'


def _prefix(enum: descriptor_pb2.EnumDescriptorProto) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"


def _enum(named: Named, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    prefix = _prefix(enum)
    values = {v.name.removeprefix(prefix): named.comments[v.name] for v in enum.value}
    yield f'class {named.name}(Word, prefix="{prefix}"):'
    yield from _docstring(named.comments[""], values)
    yield ""
    yield from (f'    {name} = "{name}"' for name in values)


def _result(contract: Contract, named: Named, proto: descriptor_pb2.DescriptorProto) -> list[str]:
    base = f"({BASES[named.name]})" if named.name in BASES else ""
    lines = ["@dataclass(frozen=True)", f"class {named.name}{base}:"]
    lines += _docstring(named.comments[""], {f.name: named.comments[f.name] for f in proto.field})
    lines.append("")
    for part in proto.field:
        kind, default = _annotation(contract, part, request=False)
        lines.append(f"    {part.name}: {kind} = {default}")
    return lines


def _spelt(contract: Contract, named: Named, proto: descriptor_pb2.DescriptorProto) -> list[str]:
    lines = [f"class {named.name}(TypedDict):"]
    lines += _docstring(named.comments[""], {f.name: named.comments[f.name] for f in proto.field})
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
            raise ValueError(f"two types of the contract would be called {named.name}: {full}")
        names.add(named.name)
        lines += ["", ""]
        if isinstance(named.proto, descriptor_pb2.EnumDescriptorProto):
            lines += _enum(named, named.proto)
        elif full in SPELT_BY_NAME:
            lines += _spelt(contract, named, named.proto)
        else:
            lines += _result(contract, named, named.proto)
    return "\n".join(lines) + "\n"


def methods_module(contract: Contract) -> str:
    """Writes the methods."""
    lines = [
        '"""The contract\'s REST methods; generated by `make protos`, never edited."""',
        "",
        "from smartpay_client.method import Idempotency, Method",
        "",
    ]
    names: set[str] = set()
    for method in sorted(from_outside(contract), key=lambda m: m.name):
        if method.name in names:
            raise ValueError(f"two methods of the contract are called {method.name}")
        names.add(method.name)
        access, rule = method.options.Extensions[access_pb2.access], method.options.Extensions[HTTP]
        bindings = [(b, b.WhichOneof("pattern")) for b in (rule, *rule.additional_bindings)]
        verb, path = next(
            (verb.upper(), getattr(binding, verb))
            for binding, verb in bindings
            if getattr(binding, verb).startswith("/v1/")
        )
        constant = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).upper()
        level = LEVELS.Name(method.options.idempotency_level)
        seconds = access.deadline.ToTimedelta().total_seconds()
        lines.append(
            f'{constant} = Method("{method.name}", "{verb}", "{path}", Idempotency.{level},'
            f" deadline_seconds={seconds}, needs_key={access.idempotency_key})"
        )
    return "\n".join(lines) + "\n"


def formatted(text: str) -> str:
    """Lays the code out as the house does."""
    ruff = Path(sys.executable).parent / "ruff"
    command = [str(ruff), "format", "--stdin-filename", str(TARGET / "generated.py"), "-"]
    return subprocess.run(command, input=text, capture_output=True, check=True, text=True).stdout


def generate() -> dict[Path, str]:
    """Answers every generated file with its text."""
    contract = read(DESCRIPTORS)
    return {
        TARGET / "_contract.py": formatted(types_module(contract)),
        TARGET / "_methods.py": formatted(methods_module(contract)),
    }


if __name__ == "__main__":
    for file, text in generate().items():
        file.write_text(text)
