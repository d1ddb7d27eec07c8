"""Turns messages of the contract into JSON Schema (2020-12): what REST takes, what it answers.

Requests are closed (unknown fields are refused) and answers open (fields may be added), so a
message that stands on both sides has two schemas. JSON's spelling of protobuf is
https://protobuf.dev/programming-guides/json/; rules are those of buf.validate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from buf.validate import validate_pb2
from google.api import field_behavior_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from smartpay_gateway.comments import prose
from smartpay_gateway.contract import ContractError

Schema = dict[str, Any]
# The stubs of these options don't say what the extensions hold.
VALIDATE: Any = validate_pb2
RULES = VALIDATE.field
BEHAVIOR: Any = field_behavior_pb2.field_behavior

_INTEGERS_64 = {
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_SINT64: "int64",
    FieldDescriptor.TYPE_SFIXED64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FIXED64: "uint64",
}
_SCALARS: Mapping[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0},
}
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
}
_KEYWORDS = {
    "const": "const",
    "gt": "exclusiveMinimum",
    "gte": "minimum",
    "lt": "exclusiveMaximum",
    "lte": "maximum",
    "max_items": "maxItems",
    "max_len": "maxLength",
    "max_pairs": "maxProperties",
    "min_items": "minItems",
    "min_len": "minLength",
    "min_pairs": "minProperties",
    "pattern": "pattern",
    "unique": "uniqueItems",
}
_FORMATS = {"email": "email", "hostname": "hostname", "uri": "uri", "uuid": "uuid"}
# Rules that say nothing JSON Schema doesn't say already, or that no JSON number breaks.
_SILENT = {"defined_only", "finite", "required", "ignore"}
# The parts of CEL rules (https://cel.dev) that JSON Schema has words for.
_CEL_BOUND = re.compile(r"this\.(\w+) (>=|<=|>|<) (-?\d+)")
_CEL_PATTERN = re.compile(r"this\.matches\('([^'\\]+)'\)")
_CEL_CHOICE = re.compile(r"this in \[((?:'\w+',?)+)\]")
_CEL_OPERATORS = {
    ">": "exclusiveMinimum",
    ">=": "minimum",
    "<": "exclusiveMaximum",
    "<=": "maximum",
}
_GROWING = "Values may be added."


class Side(StrEnum):
    """Who writes the JSON: the caller in a request, or we in an answer."""

    REQUEST = "request"
    ANSWER = "answer"


class Schemas:
    """Collects the schemas of messages and enums, each once per side, as OpenAPI components."""

    def __init__(
        self, comments: Mapping[str, str], asked: Iterable[Descriptor], told: Iterable[Descriptor]
    ) -> None:
        self.components: dict[str, Schema] = {}
        self._comments = comments
        self._owners: dict[str, str] = {}
        self._sides = {Side.REQUEST: _reached(asked), Side.ANSWER: _reached(told)}
        self._names = {
            field.name: field.json_name
            for reached in self._sides.values()
            for kind in reached.values()
            if isinstance(kind, Descriptor)
            for field in kind.fields
        }

    def prose(self, full_name: str) -> str:
        """Says what the contract's comment says of a declaration; raises when it says nothing."""
        if full_name not in self._comments:
            raise ContractError(f"{full_name}: no comment; the documentation is made of them.")
        return prose(self._comments[full_name], self._names)

    def message(
        self, message: Descriptor, side: Side, without: frozenset[str] = frozenset()
    ) -> Schema:
        """Refers to a message; `without` are the fields its route takes from the path."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])

        def body() -> Schema:
            fields = [field for field in message.fields if field.name not in without]
            about = " ".join([self.prose(message.full_name), *_choices(message)])
            schema: Schema = {"type": "object", "description": about}
            schema["properties"] = {f.json_name: self.field(f, side) for f in fields}
            if required := [f.json_name for f in fields if _is_always_there(f, side)]:
                schema["required"] = required
            if side is Side.REQUEST:
                schema["additionalProperties"] = False
            return schema

        return self._component(message, side, body)

    def field(self, field: FieldDescriptor, side: Side) -> Schema:
        """Describes one field with its comment, and in a request with its rules."""
        schema = self._plain(field, side)
        sentences = [self.prose(field.full_name)]
        if side is Side.REQUEST:
            sentences += _apply(_rules(field), schema, field)
        return {**schema, "description": " ".join(sentences)}

    def _plain(self, field: FieldDescriptor, side: Side) -> Schema:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._one(value, side)}
        if field.is_repeated:
            return {"type": "array", "items": self._one(field, side)}
        return self._one(field, side)

    def _one(self, field: FieldDescriptor, side: Side) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type, side)
        if field.enum_type is not None:
            return self._enum(field.enum_type, side)
        if field.type in _INTEGERS_64:
            unsigned = _INTEGERS_64[field.type] == "uint64"
            return {
                # Texts, since JavaScript's numbers end at 2^53; a number is taken as well.
                "type": ["string", "integer"] if side is Side.REQUEST else "string",
                "format": _INTEGERS_64[field.type],
                "pattern": r"^\d{1,20}$" if unsigned else r"^-?\d{1,19}$",
            }
        if field.type not in _SCALARS:
            raise ContractError(f"{field.full_name}: add its type to json_schemas.py.")
        return dict(_SCALARS[field.type])

    def _enum(self, enum: EnumDescriptor, side: Side) -> Schema:
        def body() -> Schema:
            about = self.prose(enum.full_name)
            # A request without the field says the same as the zero value.
            values = [v for v in enum.values if side is Side.ANSWER or v.number]
            lines = [f"- `{v.name}`: {self.prose(f'{enum.full_name}.{v.name}')}" for v in values]
            names = [value.name for value in values]
            # A reader that knows a closed list breaks on the first new value.
            open_list = side is Side.ANSWER and _GROWING in about
            return {
                "type": "string",
                "description": "\n".join([about, "", *lines]),
                "x-extensible-enum" if open_list else "enum": names,
            }

        return self._component(enum, side, body)

    def _component(
        self, kind: Descriptor | EnumDescriptor, side: Side, body: Callable[[], Schema]
    ) -> Schema:
        name = kind.full_name.removeprefix(f"{kind.file.package}.").replace(".", "")
        if side is Side.REQUEST and kind.full_name in self._sides[Side.ANSWER]:
            name += "Input"
        if self._owners.setdefault(name, kind.full_name) != kind.full_name:
            raise ContractError(f"{kind.full_name} and {self._owners[name]} are both {name}.")
        if name not in self.components:
            self.components[name] = {}  # a message may hold itself
            self.components[name] = body()
        return {"$ref": f"#/components/schemas/{name}"}


def _reached(
    messages: Iterable[Descriptor],
) -> dict[str, Descriptor | EnumDescriptor]:
    reached: dict[str, Descriptor | EnumDescriptor] = {}
    pending = list(messages)
    while pending:
        message = pending.pop()
        if message.full_name in reached:
            continue
        reached[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None:
                pending.append(field.message_type)
            elif field.enum_type is not None:
                reached[field.enum_type.full_name] = field.enum_type
    return reached


def _choices(message: Descriptor) -> Iterator[str]:
    """Tells in words which fields exclude each other: new ones may join, so no schema says it."""
    for oneof in message.oneofs:
        if len(oneof.fields) > 1:
            yield f"At most one of {', '.join(f'`{f.json_name}`' for f in oneof.fields)} is there."


def _options(field: FieldDescriptor) -> descriptor_pb2.FieldOptions:
    # Read by serialising: the pool's options are classes of its own, not those of our stubs.
    return descriptor_pb2.FieldOptions.FromString(field.GetOptions().SerializeToString())


def _rules(field: FieldDescriptor) -> Any:  # noqa: ANN401 - generated without stubs
    return _options(field).Extensions[RULES]


def _is_always_there(field: FieldDescriptor, side: Side) -> bool:
    # The edge prints every field that can't be absent, even when it is empty.
    return not field.has_presence if side is Side.ANSWER else is_required(field)


def is_required(field: FieldDescriptor) -> bool:
    """Tells whether a request must have the field."""
    behaviors = _options(field).Extensions[BEHAVIOR]
    return field_behavior_pb2.FieldBehavior.REQUIRED in behaviors or _rules(field).required


def _apply(rules: Any, schema: Schema, field: FieldDescriptor) -> list[str]:  # noqa: ANN401 - as above
    """Adds rules to a schema and answers those that only words can tell, as sentences."""
    sentences = []
    for option, value in rules.ListFields():
        name = option.name
        if name in _KEYWORDS:
            schema[_KEYWORDS[name]] = value
        elif name in _FORMATS:
            schema["format"] = _FORMATS[name]
        elif name == "ip":
            schema["anyOf"] = [{"format": "ipv4"}, {"format": "ipv6"}]
        elif name == "len":
            schema["minLength"] = schema["maxLength"] = value
        elif name == "cel":
            sentences += [f"It {rule.message.rstrip('.')}." for rule in value]
            for rule in value:
                express(rule.expression, schema, field)
        elif name == "in":
            enum = field.enum_type
            # Of an enum the rule holds numbers; JSON writes names.
            schema["enum"] = [enum.values_by_number[v].name if enum else v for v in value]
        elif name == "lt_now":
            sentences.append("It must lie in the past.")
        elif name == "keys":
            schema["propertyNames"] = {}
            sentences += _apply(value, schema["propertyNames"], field)
        elif name == "values":
            sentences += _apply(value, schema["additionalProperties"], field)
        elif name == "items":
            sentences += _apply(value, schema["items"], field)
        elif option.message_type is not None and not option.is_repeated:
            sentences += _apply(value, schema, field)  # the rules of the field's type
        elif not (name in _SILENT or _is_zero_of_enum(name, value, field)):
            raise ContractError(f"{field.full_name}: teach json_schemas.py the rule {name!r}.")
    return sentences


def express(rule: str, schema: Schema, field: FieldDescriptor) -> None:
    """Says in the schema what it can of a CEL rule; its sentence says the whole.

    Each part of a conjunction holds by itself, so a part that no schema can say is left out.
    """
    if "||" in rule or "?" in rule:
        return
    for part in rule.split(" && "):
        if (bound := _CEL_BOUND.fullmatch(part)) and field.message_type is not None:
            within = field.message_type.fields_by_name[bound[1]].json_name
            bounds = schema.setdefault("properties", {}).setdefault(within, {})
            bounds[_CEL_OPERATORS[bound[2]]] = int(bound[3])
        elif pattern := _CEL_PATTERN.fullmatch(part):
            schema["pattern"] = pattern[1]
        elif choice := _CEL_CHOICE.fullmatch(part):
            schema["enum"] = choice[1].replace("'", "").split(",")


def _is_zero_of_enum(name: str, value: object, field: FieldDescriptor) -> bool:
    """Recognises `not_in: 0`: the zero value of an enum is in no request's list anyway."""
    return name == "not_in" and field.enum_type is not None and list(value) == [0]  # type: ignore[call-overload]
