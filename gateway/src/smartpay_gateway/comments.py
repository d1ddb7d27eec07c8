"""Reads the comments of the contract: what the documentation says stands in the `.proto` files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from google.protobuf import descriptor_pb2

# The path of a declaration in its file, https://protobuf.dev/reference/protobuf/google.protobuf/
# (SourceCodeInfo.Location): field numbers of FileDescriptorProto and what lies in it.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED_MESSAGE, _NESTED_ENUM = 2, 3, 4
_VALUE = _METHOD = 2
_SNAKE = re.compile(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b")


def read_comments(files: descriptor_pb2.FileDescriptorSet) -> Mapping[str, str]:
    """Finds the leading comment of every declaration, by full name; lines are kept."""
    comments: dict[str, str] = {}
    for file in files.file:
        places = {
            tuple(location.path): location.leading_comments
            for location in file.source_code_info.location
            if location.leading_comments
        }
        for path, name in _declarations(file):
            if path in places:
                lines = (line.strip() for line in places[path].strip().splitlines())
                comments[name] = "\n".join(lines)
    return comments


def prose(comment: str, names: Mapping[str, str]) -> str:
    """Joins a comment's lines to paragraphs and spells fields as JSON does; `names` says how."""
    paragraphs = (" ".join(part.split()) for part in comment.split("\n\n"))
    return _SNAKE.sub(lambda m: names.get(m.group(), m.group()), "\n\n".join(paragraphs))


def _declarations(
    file: descriptor_pb2.FileDescriptorProto,
) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, message in enumerate(file.message_type):
        yield from _in_message((_MESSAGE, index), f"{file.package}.{message.name}", message)
    for index, enum in enumerate(file.enum_type):
        yield from _in_enum((_ENUM, index), f"{file.package}.{enum.name}", enum)
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (_SERVICE, index), name
        for number, method in enumerate(service.method):
            yield (_SERVICE, index, _METHOD, number), f"{name}.{method.name}"


def _in_message(
    path: tuple[int, ...], name: str, message: descriptor_pb2.DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, _FIELD, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _in_message((*path, _NESTED_MESSAGE, index), f"{name}.{nested.name}", nested)
    for index, enum in enumerate(message.enum_type):
        yield from _in_enum((*path, _NESTED_ENUM, index), f"{name}.{enum.name}", enum)


def _in_enum(
    path: tuple[int, ...], name: str, enum: descriptor_pb2.EnumDescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, _VALUE, index), f"{name}.{value.name}"
