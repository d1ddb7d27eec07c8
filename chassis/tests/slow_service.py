"""A service small enough to watch how the chassis runs it; test_server.py starts it.

It serves GetPayment, whose answer waits for a file, and can fail on demand.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from pydantic import Field

from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
from smartpay_chassis.server import App, run
from smartpay_chassis.settings import ServiceSettings, SettingsError


class SlowSettings(ServiceSettings):
    """Where it leaves its traces, and how it fails."""

    folder: Path = Field(validation_alias="SLOW_FOLDER")
    failure: Literal["none", "background", "build"] = Field(
        default="none", validation_alias="SLOW_FAILURE"
    )


class Slow(payments_pb2_grpc.PaymentsServiceServicer):
    """Says that a call has come, and answers it once it may."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def GetPayment(
        self, request: payments_pb2.GetPaymentRequest, context: object
    ) -> payments_pb2.GetPaymentResponse:
        """Waits for the file `answer`."""
        (self._folder / "called").touch()
        while not (self._folder / "answer").exists():
            await asyncio.sleep(0.01)
        return payments_pb2.GetPaymentResponse(
            payment=payment_pb2.Payment(payment_id=request.payment_id)
        )


async def build(app: App, settings: SlowSettings) -> None:
    """Joins it."""
    if settings.failure == "build":
        raise SettingsError("SLOW_FAILURE: was found wrong late")
    app.serve(
        payments_pb2_grpc.add_PaymentsServiceServicer_to_server,
        Slow(settings.folder),  # type: ignore[abstract]  # serves only what the tests call
        payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"],
    )

    async def close() -> None:
        (settings.folder / "closed").touch()

    app.on_stop(close)

    async def fail() -> None:
        raise RuntimeError("on demand")

    if settings.failure == "background":
        app.background("demand", fail)


if __name__ == "__main__":
    run("slow", SlowSettings, build)
