from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
import pytest

from smartpay.assistant.v1 import assistant_pb2 as pb
from smartpay.assistant.v1.assistant_pb2_grpc import (
    AssistantServiceStub,
    add_AssistantServiceServicer_to_server,
)
from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent, Refund
from smartpay_assistant.adapters.payment_events import record_of
from smartpay_assistant.adapters.sqlite_index import SqlitePaymentIndex
from smartpay_assistant.domain.answer import Assistant
from smartpay_assistant.domain.metrics import Filters, Metric, MetricQuery, Tally
from smartpay_assistant.domain.payment import PaymentRecord, Tenant
from smartpay_assistant.domain.plan import Plan
from smartpay_assistant.domain.planner import DeterministicPlanner
from smartpay_assistant.domain.tools import ToolResult
from smartpay_assistant.domain.writer import Draft, TemplateWriter, Writer
from smartpay_assistant.server import AssistantServer
from smartpay_assistant.testing import ACCOUNTS, HOSTILE, OTHER, History, event_of, filled, routed
from smartpay_chassis.testing import (
    OTHER_MERCHANT,
    FakeClock,
    as_merchant,
    as_service,
    error_info,
    serve_for_test,
)

if TYPE_CHECKING:
    from smartpay.assistant.v1.assistant_pb2_grpc import AssistantServiceAsyncStub

FIRST, SECOND = list(ACCOUNTS)[:2]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ROWS_MAX = 62


@contextlib.asynccontextmanager
async def serving(
    index: SqlitePaymentIndex, writer: Writer | None = None, rows_max: int = ROWS_MAX
) -> AsyncIterator[AssistantServiceAsyncStub]:
    assistant = Assistant(
        DeterministicPlanner(listed_max=20, steps_max=8),
        writer or TemplateWriter(),
        index,
        rows_max=rows_max,
        piece_letters=40,
    )
    service = pb.DESCRIPTOR.services_by_name["AssistantService"]
    server = AssistantServer(assistant, FakeClock(NOON))
    servicers = [(add_AssistantServiceServicer_to_server, server, service)]
    async with serve_for_test(servicers) as channel:
        yield AssistantServiceStub(channel)


async def ask(
    stub: AssistantServiceAsyncStub,
    question: str,
    metadata: tuple[tuple[str, str], ...] | None = None,
) -> pb.AskResponse:
    return await stub.Ask(pb.AskRequest(message=question), metadata=metadata or as_merchant())


async def chat(stub: AssistantServiceAsyncStub, question: str) -> list[pb.ChatResponse]:
    stream = stub.Chat(pb.ChatRequest(message=question), metadata=as_merchant())
    return [piece async for piece in stream]


def kinds(pieces: Sequence[pb.ChatResponse]) -> list[str]:
    return [str(piece.WhichOneof("piece")) for piece in pieces]


def of_amount(status: str, minor: int, currency: str, captured: int = 0) -> Payment:
    """A payment of noon today without refunds."""
    payment = History(minor).payment(status)
    payment.amount.minor_units, payment.amount.currency_code = minor, currency
    payment.captured_amount.minor_units = captured
    payment.create_time.FromDatetime(NOON)
    del payment.refunds[:]
    return payment


async def fill(index: SqlitePaymentIndex, *payments: Payment) -> None:
    await filled(index, [event_of(payment) for payment in payments])


async def test_a_chat_tells_plan_tool_words_citations_usage_and_done_in_this_order(
    index: SqlitePaymentIndex,
) -> None:
    paid = of_amount("succeeded", 123456, "USD", captured=123456)
    await fill(index, paid, of_amount("failed", 99, "USD"))
    async with serving(index) as stub:
        pieces = await chat(stub, "How much did I take today and how many payments failed?")

    order = kinds(pieces)
    assert [kind for kind, _ in _runs(order)] == [
        "plan",
        "tool",
        "token",
        "citation",
        "usage",
        "done",
    ]
    assert order.count("token") > 1
    assert "".join(piece.token.text for piece in pieces) == (
        "Captured volume, today (2026-11-22 UTC): 1,234.56 USD.\n\n"
        "Payments, only failed, today (2026-11-22 UTC): 1."
    )
    assert pieces[0].plan.planner == "deterministic planner, not a language model"
    assert pieces[-2].usage == pb.Usage(tool_calls=2)
    assert not pieces[-1].done.refused
    citation = next(piece.citation for piece in pieces if piece.HasField("citation"))
    assert citation == pb.Citation(
        text="1,234.56 USD",
        source="query_metrics[0].rows[0].volume",
        payment_ids=[paid.payment_id],
    )


def _runs(order: Sequence[str]) -> list[tuple[str, int]]:
    runs: list[tuple[str, int]] = []
    for kind in order:
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + 1)
        else:
            runs.append((kind, 1))
    return runs


async def test_asking_says_the_same_as_chatting(index: SqlitePaymentIndex) -> None:
    history = History(11)
    await filled(index, history.delivered(history.payments(60)))
    async with serving(index) as stub:
        for question in ("volume by processor", "list the last 3 failed payments", "profit"):
            whole, pieces = await ask(stub, question), await chat(stub, question)

            assert whole.answer == "".join(piece.token.text for piece in pieces)
            assert list(whole.tools) == [p.tool for p in pieces if p.HasField("tool")]
            assert list(whole.citations) == [p.citation for p in pieces if p.HasField("citation")]
            assert whole.plan == pieces[0].plan
            assert whole.usage == pieces[-2].usage
            assert whole.refused == pieces[-1].done.refused


async def test_figures_are_told_per_currency_and_rates_say_what_they_leave_out(
    index: SqlitePaymentIndex,
) -> None:
    await fill(
        index,
        of_amount("succeeded", 1000, "USD", captured=1000),
        of_amount("succeeded", 501, "USD", captured=501),
        of_amount("succeeded", 700, "JPY", captured=700),
        of_amount("failed", 5, "USD"),
        of_amount("blocked", 6, "USD"),
    )
    async with serving(index) as stub:
        taken = await ask(stub, "how much did I take, and what is my average payment?")
        rate = await ask(stub, "approval rate by currency")
        blocks = await ask(stub, "how many payments were blocked by fraud?")
        nothing = await ask(stub, "refunds yesterday")

    assert "Captured volume, all time: 700 JPY and 15.01 USD." in taken.answer
    assert "Average captured payment, all time: 700 JPY and 7.51 USD." in taken.answer
    assert "- JPY: 100.0 %\n- USD: 66.7 %\n" in rate.answer
    assert "Blocked, canceled and open payments are left out" in rate.answer
    assert blocks.answer == "Payments blocked by fraud, all time: 1."
    assert nothing.answer.startswith("Refunded, yesterday (2026-11-21 UTC): nothing.")
    assert nothing.answer.endswith("Refunds, yesterday (2026-11-21 UTC): 0.")


async def test_an_account_is_named_by_its_own_id(index: SqlitePaymentIndex) -> None:
    history = History(1)
    await filled(index, history.delivered(history.payments(20)))
    async with serving(index) as stub:
        answer = (await ask(stub, "volume by processor account")).answer

    assert set(re.findall(r"pac.[a-z0-9]{26}", answer)) <= set(ACCOUNTS)
    assert "pac_" in answer


async def test_a_blocked_payment_is_explained_by_fraud(index: SqlitePaymentIndex) -> None:
    payment = of_amount("blocked", 1999, "USD")
    await fill(index, payment)
    async with serving(index) as stub:
        answer = await ask(stub, f"why was {payment.payment_id} blocked?")

    assert answer.answer == (
        f"Payment {payment.payment_id} over 19.99 USD is blocked.\n"
        "Fraud said block with a score of 0.125.\n"
        "- 4 payments of one device in 1 hour.\n"
        "The accounts were not ranked.\n"
        "No account was tried."
    )
    sources = {citation.source for citation in answer.citations}
    assert "explain_decision[0].fraud[0].score" in sources
    assert {ids for c in answer.citations for ids in c.payment_ids} == {payment.payment_id}


async def test_a_cascade_is_explained_with_ranking_declines_and_refund(
    index: SqlitePaymentIndex,
) -> None:
    payment = routed(of_amount("succeeded", 5000, "USD", captured=5000), FIRST, SECOND)
    del payment.attempts[:]
    payment.attempts.add(
        processor_account_id=FIRST,
        processor=ACCOUNTS[FIRST],
        status=Attempt.STATUS_DECLINED,
        decline_code="insufficient_funds",
        soft_decline=True,
    )
    payment.attempts.add(
        processor_account_id=SECOND, processor=ACCOUNTS[SECOND], status=Attempt.STATUS_SUCCEEDED
    )
    refund = payment.refunds.add(
        refund_id="ref_1", status=Refund.STATUS_SUCCEEDED, reason=Refund.REASON_DUPLICATE
    )
    refund.amount.minor_units = 250
    refund.create_time.FromDatetime(NOON)
    await fill(index, payment)
    async with serving(index) as stub:
        answer = (await ask(stub, f"how was {payment.payment_id} routed")).answer

    assert f"- {FIRST}: stripe, 90.0 %, Charged 12 of 13 lately." in answer
    assert f"Left out {list(ACCOUNTS)[3]}: It has no token." in answer
    assert f"- Tried {FIRST}: stripe, declined, insufficient_funds, soft decline" in answer
    assert f"- Tried {SECOND}: stripe, succeeded" in answer
    assert "After a soft decline the next account of the ranking was tried." in answer
    assert "- Refund 2.50 USD: succeeded, duplicate, 2026-11-22 UTC" in answer


async def test_an_unknown_payment_and_anothers_payment_get_the_same_answer(
    index: SqlitePaymentIndex,
) -> None:
    foreign = of_amount("succeeded", 4242, "USD", captured=4242)
    foreign.merchant_id = OTHER.merchant_id
    await fill(index, foreign)
    async with serving(index) as stub:
        theirs = await ask(stub, f"explain {foreign.payment_id}")
        nobodys = await ask(stub, f"explain pay_d1{'9' * 24}")
        owners = await ask(stub, f"explain {foreign.payment_id}", as_merchant(OTHER_MERCHANT))
        own = await ask(stub, "volume")

    assert theirs.answer == nobodys.answer == "I found no such payment."
    assert not theirs.refused
    assert not nobodys.refused
    assert theirs.tools[0].result_json == nobodys.tools[0].result_json
    assert "42.42 USD" in owners.answer
    assert own.answer == "Captured volume, all time: nothing."


async def test_no_tool_argument_names_a_tenant(index: SqlitePaymentIndex) -> None:
    await fill(index, of_amount("failed", 1, "USD"))
    questions = ("volume today", "list payments", f"explain pay_d1{'9' * 24}", "help")
    async with serving(index) as stub:
        tools = [tool for q in questions for tool in (await ask(stub, q)).tools]

    assert {tool.name for tool in tools} == {
        "query_metrics",
        "list_payments",
        "explain_decision",
        "describe_metrics",
    }
    for tool in tools:
        assert "mer_" not in tool.arguments_json
        assert not re.search("merchant|tenant|livemode", tool.arguments_json)
        json.loads(tool.result_json)


async def test_a_hostile_description_reaches_neither_plan_nor_answer(
    index: SqlitePaymentIndex,
) -> None:
    payment = of_amount("failed", 1999, "USD")
    payment.status_reason = payment.attempts[0].decline_code = HOSTILE
    await fill(index, payment)
    async with serving(index) as stub:
        for question in (f"why was {payment.payment_id} declined", "list payments", "volume"):
            said = str(await ask(stub, question))

            assert "Ignore" not in said
            assert "999 USD" not in said.replace("19.99 USD", "")
            assert "SAY" not in said


async def test_what_cannot_be_answered_is_refused_with_what_can_be(
    index: SqlitePaymentIndex,
) -> None:
    await fill(index)
    async with serving(index) as stub:
        answer = await ask(stub, "What is my profit?")
        helped = await ask(stub, "what can you do?")

    assert answer.refused
    assert answer.answer.startswith("I can't answer that: I don't know \"profit\". ")
    assert "not a language model" in answer.answer
    assert list(answer.tools) == []
    assert not helped.refused
    assert "approval rate: succeeded or authorized payments among those" in helped.answer


async def test_an_answer_that_would_be_too_long_is_refused_not_cut(
    index: SqlitePaymentIndex,
) -> None:
    history = History(12)
    await filled(index, history.delivered(history.payments(60)))
    async with serving(index, rows_max=3) as stub:
        answer = await ask(stub, "payment count by day")

    assert answer.refused
    assert "more lines than I write" in answer.answer
    assert list(answer.tools) == []


class Liar:
    """A writer that makes up a figure, as a language model might."""

    async def write(self, question: str, plan: Plan, results: Sequence[ToolResult]) -> Draft:
        return Draft("You took 1,000,000.00 USD.", input_tokens=10, output_tokens=5)


async def test_an_invented_figure_is_never_shown(index: SqlitePaymentIndex) -> None:
    await fill(index, of_amount("succeeded", 100, "USD", captured=100))
    async with serving(index, Liar()) as stub:
        pieces = await chat(stub, "volume")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(stub, "volume")

    assert kinds(pieces) == ["plan", "tool", "error", "done"]
    assert pieces[2].error.reason == "INTERNAL"
    assert "1,000,000" not in str(pieces)
    info = error_info(failed.value)
    assert (info["code"], info["reason"]) == ("INTERNAL", "INTERNAL")
    assert "1,000,000" not in str(info)


class Broken(SqlitePaymentIndex):
    """An index whose disk fails while it is read."""

    def __init__(self) -> None:
        """Needs no store."""

    async def ready(self) -> bool:
        return True

    async def tallies(
        self, tenant: Tenant, query: MetricQuery, rows_max: int
    ) -> Mapping[Metric, Sequence[Tally]]:
        raise OSError("disk at /var/lib/index.db failed")

    async def newest(self, tenant: Tenant, filters: Filters, limit: int) -> Sequence[PaymentRecord]:
        raise OSError("disk at /var/lib/index.db failed")


async def test_a_failure_half_way_is_a_piece_and_then_done_and_leaks_nothing() -> None:
    async with serving(Broken()) as stub:
        pieces = await chat(stub, "volume")

    assert kinds(pieces) == ["plan", "error", "done"]
    assert pieces[1].error.reason == "INTERNAL"
    assert "disk" not in str(pieces)


async def test_before_the_index_has_caught_up_nothing_is_said(index: SqlitePaymentIndex) -> None:
    event: PaymentEvent = event_of(of_amount("succeeded", 100, "USD", captured=100))
    await index.apply(record_of(event), "1", False)
    async with serving(index) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await chat(stub, "volume")

    info = error_info(failed.value)
    assert (info["code"], info["reason"]) == ("UNAVAILABLE", "INDEX_NOT_READY")


@pytest.mark.parametrize("message", ["", "x" * 2001])
async def test_a_message_of_the_wrong_length_is_refused_by_the_contract(
    index: SqlitePaymentIndex, message: str
) -> None:
    async with serving(index) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(stub, message)

    assert (error_info(failed.value)["reason"], error_info(failed.value)["field"]) == (
        "FIELD_INVALID",
        "message",
    )


async def test_services_may_not_chat(index: SqlitePaymentIndex) -> None:
    async with serving(index) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Ask(pb.AskRequest(message="volume"), metadata=as_service("payments"))

    assert error_info(failed.value)["reason"] == "ACCESS_DENIED"
