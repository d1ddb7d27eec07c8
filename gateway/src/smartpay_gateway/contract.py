"""Reads the contract: every method with its access rule, its REST bindings and its messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor

from smartpay.access.v1 import access_pb2
from smartpay_gateway.comments import read_comments

SHARED_PACKAGE = "smartpay.type.v1"
REASONS = "ErrorReason"
RAW_BODY = "google.api.HttpBody"
# Files only the chassis needs; Envoy's copy of the contract leaves them out with their options.
NOT_FOR_ENVOY = {
    "buf/validate/validate.proto",
    "google/api/field_behavior.proto",
    "google/protobuf/field_mask.proto",
    "smartpay/access/v1/access.proto",
}
# google.api's stubs don't say what the extension holds.
HTTP: Any = annotations_pb2.http


class ContractError(Exception):
    """The contract lacks something without which no mesh can be generated; says which method."""


@dataclass(frozen=True)
class Binding:
    """One REST route of a method, as google.api.http states it.

    `body` is "*" (the whole request), a field's name, or "" (no body).
    """

    verb: str
    path: str
    body: str
    response_body: str


@dataclass(frozen=True)
class Method:
    """One rpc with all that Envoy has to know of it.

    `path` is the gRPC path ("/package.Service/Method"), `service` the serving house ("payments").
    `signed` says that its body carries a proof of its own: anybody reaches its REST routes.
    """

    path: str
    name: str
    service: str
    scope: str
    signed: bool
    callers: tuple[str, ...]
    deadline_seconds: float
    retryable: bool
    reads_only: bool
    idempotency_key: bool
    streams: bool
    bindings: tuple[Binding, ...]
    request: Descriptor
    response: Descriptor

    @property
    def from_outside(self) -> bool:
        """Tells whether the edge calls it, for users or for whoever signs the body."""
        return bool(self.scope) or self.signed


@dataclass(frozen=True)
class Contract:
    """All methods, in the order of their paths, and the descriptor set Envoy transcodes by.

    `reasons` are the enums of why calls are refused, `comments` what the contract says of
    everything in it, by full name.
    """

    methods: tuple[Method, ...]
    envoy_descriptors: bytes
    reasons: tuple[EnumDescriptor, ...]
    comments: Mapping[str, str]

    def of_service(self, service: str) -> tuple[Method, ...]:
        """Lists what one service serves, for its mesh listener."""
        return tuple(m for m in self.methods if m.service == service)

    def called_by(self, caller: str) -> tuple[Method, ...]:
        """Lists what one service may call, for its egress."""
        return tuple(m for m in self.methods if caller in m.callers)

    def with_token(self) -> tuple[Method, ...]:
        """Lists what a user's token can reach, for the edge and its description."""
        return tuple(m for m in self.methods if m.scope)

    def signed(self) -> tuple[Method, ...]:
        """Lists what anybody can reach without a token, for the edge."""
        return tuple(m for m in self.methods if m.signed)

    def from_outside(self) -> tuple[Method, ...]:
        """Lists all that the edge serves."""
        return tuple(m for m in self.methods if m.from_outside)


def read_contract(descriptor_set: Path, services: Sequence[str]) -> Contract:
    """Reads the descriptor set of `make protos`; raises ContractError for an incomplete method.

    `services` names the houses: package smartpay.<service>.v1 is served by <service>.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    methods = [
        _method(descriptor, services)
        for file in files.file
        if file.name.startswith("smartpay/")
        for service in file.service
        for descriptor in pool.FindServiceByName(f"{file.package}.{service.name}").methods
    ]
    if not methods:
        raise ContractError(f"{descriptor_set} holds no service: run `make protos`.")
    return Contract(
        methods=tuple(sorted(methods, key=lambda m: m.path)),
        envoy_descriptors=_for_envoy(files),
        reasons=tuple(_reasons(pool, files)),
        comments=read_comments(files),
    )


def _reasons(
    pool: descriptor_pool.DescriptorPool, files: descriptor_pb2.FileDescriptorSet
) -> Iterator[EnumDescriptor]:
    """Finds the enums of why calls are refused: the shared one first."""
    packages = {
        file.package for file in files.file for enum in file.enum_type if enum.name == REASONS
    }
    for package in sorted(packages, key=lambda name: (name != SHARED_PACKAGE, name)):
        yield pool.FindEnumTypeByName(f"{package}.{REASONS}")


def _method(descriptor: MethodDescriptor, services: Sequence[str]) -> Method:
    service_descriptor = descriptor.containing_service
    path = f"/{service_descriptor.full_name}/{descriptor.name}"
    service = service_descriptor.full_name.split(".")[1]
    if service not in services:
        raise ContractError(f"{path}: no service of the topology serves it; add {service!r}.")
    # Read by serialising: the pool's options are classes of its own, not those of our stubs.
    options = descriptor_pb2.MethodOptions.FromString(descriptor.GetOptions().SerializeToString())
    if not options.HasExtension(access_pb2.access):
        raise ContractError(f"{path}: no access rule; add option (smartpay.access.v1.access).")
    access = options.Extensions[access_pb2.access]
    deadline = access.deadline.ToTimedelta().total_seconds()
    if deadline <= 0:
        raise ContractError(f"{path}: no deadline; add access.deadline.")
    bindings = tuple(_bindings(options.Extensions[HTTP]))
    if access.signed:
        _check_signed(path, access, bindings, descriptor)
    elif not access.scope and not access.callers:
        raise ContractError(f"{path}: nobody may call it; add access.scope or access.callers.")
    elif not access.scope and bindings:
        raise ContractError(f"{path}: a REST route without a scope; add access.scope.")
    if unknown := set(access.callers) - set(services):
        raise ContractError(f"{path}: unknown callers {sorted(unknown)}; name services.")
    return Method(
        path=path,
        name=descriptor.full_name,
        service=service,
        scope=access.scope,
        signed=access.signed,
        callers=tuple(sorted(access.callers)),
        deadline_seconds=deadline,
        retryable=options.idempotency_level
        in (
            descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
            descriptor_pb2.MethodOptions.IDEMPOTENT,
        ),
        reads_only=options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
        idempotency_key=access.idempotency_key,
        streams=descriptor.server_streaming or descriptor.client_streaming,
        bindings=bindings,
        request=descriptor.input_type,
        response=descriptor.output_type,
    )


def _check_signed(
    path: str,
    access: access_pb2.Access,
    bindings: Sequence[Binding],
    descriptor: MethodDescriptor,
) -> None:
    """Holds a method that needs no token to the one form in which that is safe."""
    if access.scope or access.callers or access.idempotency_key or access.across_merchants:
        raise ContractError(f"{path}: signed stands alone; take the other access rules away.")
    fields = descriptor.input_type.fields_by_name
    for binding in bindings:
        body = fields[binding.body].message_type if binding.body in fields else None
        if binding.verb != "POST" or body is None or body.full_name != RAW_BODY:
            raise ContractError(f"{path}: signed needs POST and a body of {RAW_BODY}.")
    if not bindings:
        raise ContractError(f"{path}: signed without a REST route; add google.api.http.")


def _bindings(rule: http_pb2.HttpRule) -> Iterator[Binding]:
    verb = rule.WhichOneof("pattern")
    if verb is None:
        return
    if verb == "custom":
        yield Binding(rule.custom.kind, rule.custom.path, rule.body, rule.response_body)
    else:
        yield Binding(verb.upper(), getattr(rule, verb), rule.body, rule.response_body)
    for additional in rule.additional_bindings:
        yield from _bindings(additional)


def _for_envoy(files: descriptor_pb2.FileDescriptorSet) -> bytes:
    """Strips comments, validation and access: what is left is a tenth, and all Envoy reads."""
    kept = descriptor_pb2.FileDescriptorSet()
    for file in files.file:
        if file.name in NOT_FOR_ENVOY:
            continue
        copy = kept.file.add()
        copy.CopyFrom(file)
        copy.ClearField("source_code_info")
        imports = [name for name in copy.dependency if name not in NOT_FOR_ENVOY]
        del copy.dependency[:]
        copy.dependency.extend(imports)
        for service in copy.service:
            for method in service.method:
                method.options.ClearExtension(access_pb2.access)
                _clear_response_body(method.options)
        for message in copy.message_type:
            _strip_fields(message)
    return kept.SerializeToString(deterministic=True)


def _clear_response_body(options: descriptor_pb2.MethodOptions) -> None:
    """Leaves response_body to answer.lua: Envoy's transcoder knows it for HttpBody only."""
    if options.HasExtension(HTTP):
        rule: http_pb2.HttpRule = options.Extensions[HTTP]
        for binding in (rule, *rule.additional_bindings):
            binding.ClearField("response_body")


def _strip_fields(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        # An extension whose stubs are not imported is an unknown field, else a known one.
        field.options.DiscardUnknownFields()
        for option, _ in field.options.ListFields():
            if option.is_extension:
                extension: Any = option
                field.options.ClearExtension(extension)
        if not field.options.ByteSize():
            field.ClearField("options")
    for nested in message.nested_type:
        _strip_fields(nested)
