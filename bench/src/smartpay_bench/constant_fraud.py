"""The service behind all four paths: grpc.aio on uvloop, one constant answer, no chassis.

Without the chassis the service costs as little as it can, so that the ratios show edge and
sidecars and nothing of ours dilutes them: its checks would slow the plain call as well.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay_bench.one_call import ANSWER


class ConstantFraud(fraud_pb2_grpc.FraudServiceServicer):
    """Reads the request, as every service must, and answers the same."""

    async def Score(  # noqa: N802 - gRPC names the methods
        self,
        request: fraud_pb2.ScoreRequest,
        context: grpc.aio.ServicerContext[fraud_pb2.ScoreRequest, fraud_pb2.ScoreResponse],
    ) -> fraud_pb2.ScoreResponse:
        """Answers."""
        return ANSWER

    async def ScoreBatch(  # noqa: N802
        self,
        request: fraud_pb2.ScoreBatchRequest,
        context: grpc.aio.ServicerContext[
            fraud_pb2.ScoreBatchRequest, fraud_pb2.ScoreBatchResponse
        ],
    ) -> fraud_pb2.ScoreBatchResponse:
        """Answers each the same; the contract asks for it, no path calls it."""
        return fraud_pb2.ScoreBatchResponse(
            assessments=[ANSWER.assessment] * len(request.transactions)
        )

    async def ScoreStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[fraud_pb2.ScoreStreamRequest],
        context: grpc.aio.ServicerContext[
            fraud_pb2.ScoreStreamRequest, fraud_pb2.ScoreStreamResponse
        ],
    ) -> AsyncIterator[fraud_pb2.ScoreStreamResponse]:
        """Answers each the same; the contract asks for it, no path calls it."""
        async for _ in request_iterator:
            yield fraud_pb2.ScoreStreamResponse(assessment=ANSWER.assessment)

    async def RecordLabel(  # noqa: N802
        self,
        request: fraud_pb2.RecordLabelRequest,
        context: grpc.aio.ServicerContext[
            fraud_pb2.RecordLabelRequest, fraud_pb2.RecordLabelResponse
        ],
    ) -> fraud_pb2.RecordLabelResponse:
        """Forgets the label; the contract asks for it, no path calls it."""
        return fraud_pb2.RecordLabelResponse()


async def serve(socket: str, port: int) -> None:
    """Serves on the sidecar's socket and, for the plain path, on a loopback port."""
    server = grpc.aio.server()
    fraud_pb2_grpc.add_FraudServiceServicer_to_server(ConstantFraud(), server)
    checks = health.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(f"unix:{socket}")
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
