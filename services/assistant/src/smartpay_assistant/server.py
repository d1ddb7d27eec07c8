"""Speaks gRPC: a question in, pieces of an answer or the whole of it out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import grpc
import structlog

from smartpay.assistant.v1 import assistant_pb2 as pb
from smartpay.assistant.v1.assistant_pb2_grpc import AssistantServiceServicer
from smartpay_assistant.domain.answer import Assistant, Finished, Piece, Usage, Words
from smartpay_assistant.domain.payment import Tenant
from smartpay_assistant.domain.plan import Plan, arguments, sentence
from smartpay_assistant.domain.provenance import Citation
from smartpay_assistant.domain.tools import ToolResult
from smartpay_chassis.calls import current_call
from smartpay_chassis.refusals import Refusal

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]


class AssistantServer(AssistantServiceServicer):
    """Serves Chat and Ask from one loop, so that both say the same.

    Args:
        assistant: answers.
        clock: the time now, aware; its UTC day is "today".
    """

    def __init__(self, assistant: Assistant, clock: Callable[[], datetime]) -> None:
        self._assistant = assistant
        self._clock = clock

    async def Chat(
        self, request: pb.ChatRequest, context: Context
    ) -> AsyncIterator[pb.ChatResponse]:
        """Streams an answer; a failure after the first piece is told as a piece, then done."""
        begun = False
        try:
            async for piece in self._answer(request.message):
                yield _piece(piece)
                begun = True
        except Exception as error:
            if not begun:
                raise  # nothing is said yet: the interceptor can still send a status
            yield pb.ChatResponse(error=_error(error))
            yield pb.ChatResponse(done=pb.Done(refused=False))

    async def Ask(self, request: pb.AskRequest, context: Context) -> pb.AskResponse:
        """Answers at once, from the same pieces."""
        response = pb.AskResponse()
        async for piece in self._answer(request.message):
            match piece:
                case Plan():
                    response.plan.CopyFrom(_plan(piece))
                case ToolResult():
                    response.tools.append(_tool(piece))
                case Words():
                    response.answer += piece.text
                case Citation():
                    response.citations.append(_citation(piece))
                case Usage():
                    response.usage.CopyFrom(_usage(piece))
                case Finished():
                    response.refused = piece.refused
        return response

    def _answer(self, question: str) -> AsyncIterator[Piece]:
        call = current_call()
        tenant = Tenant(call.merchant_id, call.livemode)
        return self._assistant.answer(question, tenant, self._clock().date())


def _piece(piece: Piece) -> pb.ChatResponse:
    match piece:
        case Plan():
            return pb.ChatResponse(plan=_plan(piece))
        case ToolResult():
            return pb.ChatResponse(tool=_tool(piece))
        case Words():
            return pb.ChatResponse(token=pb.Token(text=piece.text))
        case Citation():
            return pb.ChatResponse(citation=_citation(piece))
        case Usage():
            return pb.ChatResponse(usage=_usage(piece))
        case Finished():
            return pb.ChatResponse(done=pb.Done(refused=piece.refused))


def _plan(plan: Plan) -> pb.Plan:
    return pb.Plan(planner=plan.planner, steps=[sentence(step) for step in plan.steps])


def _tool(result: ToolResult) -> pb.ToolCall:
    return pb.ToolCall(
        name=result.step.tool,
        arguments_json=json.dumps(arguments(result.step)),
        result_json=json.dumps(result.as_json()),
    )


def _citation(citation: Citation) -> pb.Citation:
    return pb.Citation(text=citation.text, source=citation.source, payment_ids=citation.payment_ids)


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        tool_calls=usage.tool_calls,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
    )


def _error(error: Exception) -> pb.ChatError:
    if isinstance(error, Refusal):
        log.warning("answer broken off", reason=error.reason)
        return pb.ChatError(reason=error.reason, message=f"{error.message} {error.remedy}")
    log.error("answer broken off", exc_info=error)
    return pb.ChatError(
        reason="INTERNAL",
        message="Something failed on our side. Ask again; report the request id if it stays.",
    )
