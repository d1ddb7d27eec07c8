"""The access table, read from the contract's own options, enforced again behind Envoy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from smartpay.access.v1 import access_pb2
from smartpay_chassis.identity import EDGE
from smartpay_chassis.refusals import Kind, Refusal


@dataclass(frozen=True)
class Rule:
    """The access rule of one method."""

    scope: str
    callers: frozenset[str]
    deadline_seconds: float
    idempotency_key: bool
    across_merchants: bool
    signed: bool
    """The body carries its own proof; the call has no merchant, and its handler checks."""
    request_type: type

    def admit(self, caller: str) -> None:
        """Lets a caller in; raises Refusal PERMISSION_DENIED otherwise."""
        if caller not in self.callers:
            raise Refusal(
                Kind.PERMISSION_DENIED,
                "ACCESS_DENIED",
                "The calling service may not use this method.",
                remedy="Ask the owner of the method to list the service in its access rule.",
            )


def rules_of(services: Iterable[ServiceDescriptor]) -> dict[str, Rule]:
    """Reads the rules of all methods by gRPC path.

    Raises:
        ValueError: a method states no rule or no deadline, or is signed and asks for more.
    """
    rules: dict[str, Rule] = {}
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            access = options.Extensions[access_pb2.access]
            deadline = access.deadline.seconds + access.deadline.nanos / 1e9
            if access.signed and (access.scope or access.callers or access.idempotency_key):
                raise ValueError(f"{method.full_name} is signed, so nothing else may be asked")
            outside = {EDGE} if access.scope or access.signed else frozenset[str]()
            callers = frozenset(access.callers) | outside
            if not callers or deadline <= 0:
                raise ValueError(f"{method.full_name} states no callers or no deadline")
            rules[f"/{service.full_name}/{method.name}"] = Rule(
                scope=access.scope,
                callers=callers,
                deadline_seconds=deadline,
                idempotency_key=access.idempotency_key,
                across_merchants=access.across_merchants,
                signed=access.signed,
                request_type=GetMessageClass(method.input_type),
            )
    return rules
