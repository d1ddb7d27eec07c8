"""Reads the contract's descriptor set with its comments, and finds what merchants see of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf import descriptor_pb2

from smartpay.access.v1 import access_pb2

# Requests with so many fields that callers spell them by name.
SPELT_BY_NAME = (".smartpay.payments.v1.CreatePaymentRequest", ".smartpay.fraud.v1.ScoreRequest")
# Types that would be called as another one is: full name and name. A name once given stays.
NAMES: dict[str, str] = {}
TIMESTAMP = ".google.protobuf.Timestamp"
# A file, which is no result with fields.
RAW_BODY = ".google.api.HttpBody"
Field = descriptor_pb2.FieldDescriptorProto
# google.api's stubs leave open what the extensions hold.
HTTP: Any = annotations_pb2.http
BEHAVIOR: Any = field_behavior_pb2.field_behavior


@dataclass(frozen=True)
class Named:
    """A message or an enum of the contract with the name it gets here and its comments."""

    name: str
    proto: descriptor_pb2.DescriptorProto | descriptor_pb2.EnumDescriptorProto
    comments: dict[str, str]


@dataclass(frozen=True)
class Rpc:
    """A method of the contract with its comment."""

    service: str
    proto: descriptor_pb2.MethodDescriptorProto
    comment: str

    @property
    def constant(self) -> str:
        """Its name in the table of methods."""
        return snake(self.proto.name).upper()

    @property
    def answers_a_field(self) -> str:
        """The field of the answer that REST's answer is; empty for all of it."""
        return str(self.proto.options.Extensions[HTTP].response_body)


@dataclass
class Contract:
    """What the descriptor set says, by full names with a leading dot; services by their own."""

    known: dict[str, Named] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    rpcs: list[Rpc] = field(default_factory=list)


def snake(name: str) -> str:
    """Spells a name of the contract as Python does."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


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
        for number, service in enumerate(file.service):
            contract.services[service.name] = notes.get((6, number), "")
            contract.rpcs += [
                Rpc(service.name, method, notes.get((6, number, 2, n), ""))
                for n, method in enumerate(service.method)
            ]
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
    full, name = f"{scope}.{enum.name}", outer.removesuffix("Request") + enum.name
    contract.known[full] = Named(NAMES.get(full, name), enum, comments)


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
    full = f"{scope}.{message.name}"
    name = NAMES.get(full, outer + message.name)
    contract.known[full] = Named(name, message, comments)
    for number, enum in enumerate(message.enum_type):
        _add_enum(contract, full, name, enum, (*path, 4, number), notes)
    for number, nested in enumerate(message.nested_type):
        _add_message(contract, full, name, nested, (*path, 3, number), notes)


def from_outside(contract: Contract) -> list[Rpc]:
    """Lists the methods a merchant's token can reach over REST."""
    return [
        rpc
        for rpc in contract.rpcs
        if rpc.proto.options.Extensions[access_pb2.access].scope
        and rpc.proto.options.HasExtension(HTTP)
    ]


def message_of(contract: Contract, full: str) -> descriptor_pb2.DescriptorProto:
    """Answers a message that is known to be one."""
    proto = contract.known[full].proto
    assert isinstance(proto, descriptor_pb2.DescriptorProto), full
    return proto


def answer_of(contract: Contract, rpc: Rpc) -> str:
    """Answers the full name of the type that a call answers."""
    whole = rpc.proto.output_type
    if body := rpc.answers_a_field:
        return next(f for f in message_of(contract, whole).field if f.name == body).type_name
    return whole


def needed(contract: Contract) -> list[str]:
    """Lists the types the client shows, each after what it is made of."""
    found: list[str] = []

    def visit(full: str) -> None:
        if full in found or full in (TIMESTAMP, RAW_BODY):
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

    for rpc in from_outside(contract):
        visit(answer_of(contract, rpc))
        for part in message_of(contract, rpc.proto.input_type).field:
            if part.type_name:
                visit(part.type_name)
    for full in SPELT_BY_NAME:
        visit(full)
    return sorted(found, key=lambda full: full in SPELT_BY_NAME)
