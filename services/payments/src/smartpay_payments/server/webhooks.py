"""Speaks the contract of notices that processors send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import grpc
import structlog

from smartpay.payments.v1 import webhooks_pb2, webhooks_pb2_grpc
from smartpay_payments.domain.webhooks import (
    Inbox,
    NoticeReader,
    WebhookAccounts,
    signature_refused,
)

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[
    webhooks_pb2.ReceiveWebhookRequest, webhooks_pb2.ReceiveWebhookResponse
]


class WebhooksServicer(webhooks_pb2_grpc.WebhooksServiceServicer):
    """Takes notices: proven first, durable before the answer.

    Args:
        accounts: whose notices are taken.
        readers: by processor, for instance "stripe".
        inbox: where notices become durable.
        clock: the time, aware.
    """

    def __init__(
        self,
        accounts: WebhookAccounts,
        readers: Mapping[str, NoticeReader],
        inbox: Inbox,
        clock: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._readers = readers
        self._inbox = inbox
        self._clock = clock

    async def ReceiveWebhook(
        self, request: webhooks_pb2.ReceiveWebhookRequest, context: Context
    ) -> webhooks_pb2.ReceiveWebhookResponse:
        """Takes one notice; whoever sends it is told nothing but that."""
        account = await self._accounts.find(request.processor, request.processor_account_id)
        reader = self._readers.get(request.processor)
        if account is None or reader is None:
            raise signature_refused()
        headers = {
            name: value
            for name, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        notice = await reader.read(account, headers, request.body.data)
        fate = await self._inbox.take(account, notice, self._clock())
        log.info(
            "webhook taken",
            merchant_id=account.merchant_id,
            processor_account_id=account.processor_account_id,
            event_id=notice.event_id,
            event_type=notice.event_type,
            fate=fate.value,
        )
        return webhooks_pb2.ReceiveWebhookResponse()
