"""Routing without a payment: rank accounts, look at a ranking, tell what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from smartpay_client import _methods as methods
from smartpay_client._contract import Decision, Instrument, Money, Outcome
from smartpay_client.async_connection import AsyncConnection
from smartpay_client.connection import Connection
from smartpay_client.payments import as_instrument
from smartpay_client.plan import Plan
from smartpay_client.session import CallOptions, Session
from smartpay_client.wire import encode


class RoutePlans:
    """What the calls do, whoever waits for them.

    Args:
        session: of the client.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def decide(
        self,
        amount: Money,
        instrument: Instrument | Mapping[str, str],
        risk: float,
        options: CallOptions,
    ) -> Plan[Decision]:
        """Ranks accounts."""
        body = {
            "amount": encode(amount),
            "instrument": encode(as_instrument(instrument)),
            "risk": risk,
        }
        return self._session.ask(Decision, methods.DECIDE, options, body=body)

    def get(self, decision_id: str, options: CallOptions) -> Plan[Decision]:
        """Reads an earlier ranking."""
        path = {"decision_id": decision_id}
        return self._session.ask(Decision, methods.GET_DECISION, options, path=path)

    def record_outcome(
        self,
        decision_id: str,
        processor_account_id: str,
        outcome: Outcome | str,
        attempt_index: int,
        options: CallOptions,
    ) -> Plan[None]:
        """Tells what became of one try."""
        body = {
            "attemptIndex": attempt_index,
            "processorAccountId": processor_account_id,
            "outcome": Outcome(outcome).wire,
        }
        path = {"decision_id": decision_id}
        return self._session.tell(methods.RECORD_OUTCOME, options, path=path, body=body)


class Route:
    """`client.route`.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plans = RoutePlans(connection.session)

    def decide(
        self,
        amount: Money,
        instrument: Instrument | Mapping[str, str],
        *,
        risk: float = 0.0,
        **options: Unpack[CallOptions],
    ) -> Decision:
        """Ranks the accounts that can charge this; `payments.create` takes the decision_id.

        Args:
            amount: what is to be charged.
            instrument: or its short form, token by processor account.
            risk: probability of fraud, 0 to 1; 0 when unknown.
            **options: see CallOptions.
        """
        return self._connection.run(self._plans.decide(amount, instrument, risk, options))

    def get(self, decision_id: str, **options: Unpack[CallOptions]) -> Decision:
        """Reads an earlier decision."""
        return self._connection.run(self._plans.get(decision_id, options))

    def record_outcome(
        self,
        decision_id: str,
        processor_account_id: str,
        outcome: Outcome | str,
        *,
        attempt_index: int = 0,
        **options: Unpack[CallOptions],
    ) -> None:
        """Tells what became of a decision that was used outside payments."""
        self._connection.run(
            self._plans.record_outcome(
                decision_id, processor_account_id, outcome, attempt_index, options
            )
        )


class AsyncRoute:
    """`client.route` of the async client; the same calls.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._plans = RoutePlans(connection.session)

    async def decide(
        self,
        amount: Money,
        instrument: Instrument | Mapping[str, str],
        *,
        risk: float = 0.0,
        **options: Unpack[CallOptions],
    ) -> Decision:
        """As `Route.decide`."""
        return await self._connection.run(self._plans.decide(amount, instrument, risk, options))

    async def get(self, decision_id: str, **options: Unpack[CallOptions]) -> Decision:
        """As `Route.get`."""
        return await self._connection.run(self._plans.get(decision_id, options))

    async def record_outcome(
        self,
        decision_id: str,
        processor_account_id: str,
        outcome: Outcome | str,
        *,
        attempt_index: int = 0,
        **options: Unpack[CallOptions],
    ) -> None:
        """As `Route.record_outcome`."""
        await self._connection.run(
            self._plans.record_outcome(
                decision_id, processor_account_id, outcome, attempt_index, options
            )
        )
