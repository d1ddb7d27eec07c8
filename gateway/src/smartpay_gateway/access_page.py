"""Writes the page of who may call what, out of the same contract that Envoy enforces."""

from __future__ import annotations

from collections.abc import Iterator

from smartpay_gateway.contract import Contract, Method

_HEAD = """\
# Who may call what

Generated from the contract by `make protos`; never edit. Edge, sidecars and chassis enforce it.

- **REST**: every route also answers under `/v1`. None: only over gRPC.
- **callers**: `edge` stands for users, whose token must hold the **scope**; services are named by
  their certificate and hold no token. *signed body*: anybody may call it without a token, and
  the service refuses what is not signed as it must be.
- **deadline**: upper bound of one call (of one connection, for streams), also for callers who
  give none.
- **repeated**: whether Envoy repeats a call that was refused or never arrived.
- **key**: whether the `Idempotency-Key` header is required.
"""
_COLUMNS = ("method", "REST", "callers", "scope", "deadline", "repeated", "key")


def access_page(contract: Contract) -> str:
    """Writes the page as Markdown, a table per service."""
    lines = [_HEAD]
    for service in sorted({method.service for method in contract.methods}):
        lines += [f"## {service}", "", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
        lines += [_row(_cells(method)) for method in contract.of_service(service)]
        lines.append("")
    return "\n".join(lines)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(method: Method) -> tuple[str, ...]:
    return (
        f"`{method.path.rpartition('/')[2]}`",
        "<br>".join(_routes(method)) or "none",
        ", ".join((("edge",) if method.from_outside else ()) + method.callers),
        _scope(method),
        f"{method.deadline_seconds:g} s",
        "yes" if method.retryable else "no",
        "required" if method.idempotency_key else "no",
    )


def _scope(method: Method) -> str:
    if method.signed:
        return "signed body"
    return f"`{method.scope}`" if method.scope else "none"


def _routes(method: Method) -> Iterator[str]:
    for binding in method.bindings:
        if not binding.path.startswith("/v1/"):
            yield f"`{binding.verb} {binding.path}`"
