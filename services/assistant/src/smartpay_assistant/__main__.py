"""Joins the assistant: settings, index, events, planner, writer, server."""

from __future__ import annotations

from datetime import UTC, datetime

from smartpay.assistant.v1 import assistant_pb2
from smartpay.assistant.v1.assistant_pb2_grpc import add_AssistantServiceServicer_to_server
from smartpay_assistant.adapters.payment_events import follow_payments
from smartpay_assistant.adapters.sqlite_index import SqlitePaymentIndex
from smartpay_assistant.domain.answer import Assistant
from smartpay_assistant.domain.planner import DeterministicPlanner
from smartpay_assistant.domain.writer import TemplateWriter
from smartpay_assistant.server import AssistantServer
from smartpay_assistant.settings import AssistantSettings
from smartpay_chassis.server import App, run


async def build(app: App, settings: AssistantSettings) -> None:
    """Opens the index, serves questions and follows the payments' events."""
    index = await SqlitePaymentIndex.open(settings.store_path)
    app.on_stop(index.close)
    assistant = Assistant(
        planner=DeterministicPlanner(settings.listed_max, settings.steps_max),
        writer=TemplateWriter(),
        index=index,
        rows_max=settings.rows_max,
        piece_letters=settings.piece_letters,
    )
    app.serve(
        add_AssistantServiceServicer_to_server,
        AssistantServer(assistant, clock=lambda: datetime.now(UTC)),
        assistant_pb2.DESCRIPTOR.services_by_name["AssistantService"],
    )
    app.background("payment events", lambda: follow_payments(app.channel, index))


if __name__ == "__main__":
    run("assistant", AssistantSettings, build)
