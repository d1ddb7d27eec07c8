"""Fraud: score transactions, tell what they turned out to be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Unpack

from smartpay_client import _methods as methods
from smartpay_client._contract import Assessment, Label, ScoreBatchResponse, ScoreRequest
from smartpay_client.async_connection import AsyncConnection
from smartpay_client.connection import Connection
from smartpay_client.plan import Plan
from smartpay_client.session import CallOptions, Session
from smartpay_client.wire import encode, spell


class Transaction(ScoreRequest, CallOptions):
    """What score takes: a transaction's fields and the call's options."""


class FraudPlans:
    """What the calls do, whoever waits for them.

    Args:
        session: of the client.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def score(self, transaction: Transaction) -> Plan[Assessment]:
        """Scores one transaction."""
        fields: dict[str, object] = {**transaction}
        options = CallOptions()
        if "deadline" in transaction:
            options["deadline"] = transaction["deadline"]
            del fields["deadline"]
        return self._session.ask(
            Assessment, methods.SCORE, options, body=spell(ScoreRequest, fields)
        )

    def score_batch(
        self, transactions: Sequence[ScoreRequest], options: CallOptions
    ) -> Plan[tuple[Assessment, ...]]:
        """Scores several transactions."""
        body = {"transactions": [spell(ScoreRequest, {**each}) for each in transactions]}
        answer = yield from self._session.ask(
            ScoreBatchResponse, methods.SCORE_BATCH, options, body=body
        )
        return answer.assessments

    def label(
        self,
        transaction_id: str,
        label: Label | str,
        known_time: datetime | None,
        options: CallOptions,
    ) -> Plan[None]:
        """Tells what a transaction turned out to be."""
        body = {"label": Label(label).wire}
        if known_time is not None:
            body["knownTime"] = encode(known_time)
        path = {"transaction_id": transaction_id}
        return self._session.tell(methods.RECORD_LABEL, options, path=path, body=body)


class Fraud:
    """`client.fraud`.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plans = FraudPlans(connection.session)

    def score(self, **transaction: Unpack[Transaction]) -> Assessment:
        """Scores a transaction and remembers it; the same transaction again counts once.

        Args:
            **transaction: see ScoreRequest; `deadline` besides.
        """
        return self._connection.run(self._plans.score(transaction))

    def score_batch(
        self, transactions: Sequence[ScoreRequest], **options: Unpack[CallOptions]
    ) -> tuple[Assessment, ...]:
        """Scores up to 128 transactions, each as score would, in order."""
        return self._connection.run(self._plans.score_batch(transactions, options))

    def label(
        self,
        transaction_id: str,
        label: Label | str,
        *,
        known_time: datetime | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        """Tells what a scored transaction turned out to be, and since when that is known."""
        self._connection.run(self._plans.label(transaction_id, label, known_time, options))


class AsyncFraud:
    """`client.fraud` of the async client; the same calls.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._plans = FraudPlans(connection.session)

    async def score(self, **transaction: Unpack[Transaction]) -> Assessment:
        """As `Fraud.score`."""
        return await self._connection.run(self._plans.score(transaction))

    async def score_batch(
        self, transactions: Sequence[ScoreRequest], **options: Unpack[CallOptions]
    ) -> tuple[Assessment, ...]:
        """As `Fraud.score_batch`."""
        return await self._connection.run(self._plans.score_batch(transactions, options))

    async def label(
        self,
        transaction_id: str,
        label: Label | str,
        *,
        known_time: datetime | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        """As `Fraud.label`."""
        await self._connection.run(self._plans.label(transaction_id, label, known_time, options))
