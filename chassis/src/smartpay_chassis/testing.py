"""Doubles and fixtures for the tests of every service."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from smartpay_chassis.channels import on_behalf_of
from smartpay_chassis.interceptors import (
    CALLER_CERTIFICATE_METADATA,
    CLAIMS_METADATA,
    IDEMPOTENCY_METADATA,
)
from smartpay_chassis.merchants import Fee, Merchant, Merchants, ProcessorAccount
from smartpay_chassis.server import App, Register
from smartpay_chassis.settings import ServiceSettings

DEMO_ACCOUNTS = ("pac_d1" + "a" * 24, "pac_d1" + "b" * 24)
OTHER_ACCOUNT = "pac_d1" + "c" * 24
_FEES = {
    "USD": Fee(basis_points=290, fixed_minor_units=30),
    "EUR": Fee(basis_points=250, fixed_minor_units=25),
}
DEMO_MERCHANT = Merchant(
    merchant_id="mer_d1" + "m" * 24,
    name="Demo",
    livemode=False,
    clients=("demo-client",),
    processor_accounts=(
        ProcessorAccount(
            processor_account_id=DEMO_ACCOUNTS[0], processor="stripe", name="first", fees=_FEES
        ),
        ProcessorAccount(
            processor_account_id=DEMO_ACCOUNTS[1],
            processor="stripe",
            name="second",
            fees={"USD": Fee(basis_points=320, fixed_minor_units=30)},
        ),
    ),
)
OTHER_MERCHANT = Merchant(
    merchant_id="mer_d1" + "n" * 24,
    name="Other",
    livemode=False,
    clients=("other-client",),
    processor_accounts=(
        ProcessorAccount(
            processor_account_id=OTHER_ACCOUNT, processor="stripe", name="only", fees=_FEES
        ),
    ),
)
TEST_MERCHANTS = Merchants(merchants=(DEMO_MERCHANT, OTHER_MERCHANT))


class FakeClock:
    """A clock that moves only when told. Call it for the time as an aware datetime."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)) -> None:
        self.now = start

    def __call__(self) -> datetime:
        """Answers the time it stands at."""
        return self.now

    def advance(self, **duration: float) -> None:
        """Moves on, for instance `advance(minutes=15)`."""
        self.now += timedelta(**duration)

    async def sleep(self, seconds: float) -> None:
        """Moves on instead of waiting."""
        self.advance(seconds=seconds)


def as_merchant(
    merchant: Merchant = DEMO_MERCHANT, *, idempotency_key: str | None = None, **claims: object
) -> tuple[tuple[str, str], ...]:
    """Makes the metadata of a user's call as the edge and the sidecar would send it."""
    payload = {"sub": "user", "client_id": (*merchant.clients, "unknown")[0], **claims}
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    metadata = [
        (CALLER_CERTIFICATE_METADATA, "By=x;URI=spiffe://smartpay/dev/edge"),
        (CLAIMS_METADATA, encoded),
    ]
    if idempotency_key is not None:
        metadata.append((IDEMPOTENCY_METADATA, idempotency_key))
    return tuple(metadata)


def as_service(
    name: str, merchant: Merchant | None = DEMO_MERCHANT
) -> tuple[tuple[str, str | bytes], ...]:
    """Makes the metadata of a service's call, for a merchant or for none."""
    caller = (CALLER_CERTIFICATE_METADATA, f"By=x;URI=spiffe://smartpay/dev/{name}")
    if merchant is None:
        return (caller,)
    return (caller, *on_behalf_of(merchant.merchant_id, merchant.livemode, "request-1"))


@contextlib.asynccontextmanager
async def serve_for_test(
    servicers: Sequence[tuple[Register, object, ServiceDescriptor]],
    *,
    merchants: Merchants = TEST_MERCHANTS,
    **settings: Any,  # noqa: ANN401 - any setting by its name
) -> AsyncIterator[grpc.aio.Channel]:
    """Serves on a temporary Unix socket with everything that stands around a call in production."""
    with tempfile.TemporaryDirectory(prefix="sp") as folder:
        socket = Path(folder) / "s"
        app = App(
            ServiceSettings(
                listen_socket=socket,
                egress_socket=Path(folder) / "none",
                merchants_file=Path(folder) / "none",
                **settings,
            ),
            merchants,
        )
        for register, servicer, service in servicers:
            app.serve(register, servicer, service)
        server = app.make_server()
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        async with grpc.aio.insecure_channel(
            f"unix:{socket}", options=[("grpc.default_authority", "test")]
        ) as channel:
            yield channel
        await server.stop(None)


def error_info(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Reads code, reason, field, remedy, facts and violations out of a refusal a caller got."""
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status.ParseFromString(value)
    found: dict[str, Any] = {"code": error.code().name, "message": error.details()}
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            found.update(info.metadata)
            found["reason"] = info.reason
        elif detail.Unpack(bad):
            found["violations"] = [(v.field, v.reason) for v in bad.field_violations]
    return found


def write_merchants(path: Path, merchants: Iterable[Merchant] = TEST_MERCHANTS.merchants) -> Path:
    """Writes a merchants file as operators mount it."""
    path.write_text(Merchants(merchants=tuple(merchants)).model_dump_json(indent=2))
    return path
