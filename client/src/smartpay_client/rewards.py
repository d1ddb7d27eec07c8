"""Rewards: grant, look, list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Unpack

from smartpay_client import _methods as methods
from smartpay_client import limits
from smartpay_client._contract import ListRewardsResponse, Reward
from smartpay_client.async_connection import AsyncConnection
from smartpay_client.connection import Connection
from smartpay_client.plan import Page, Plan
from smartpay_client.session import CallOptions, MoneyOptions, Session


class RewardPlans:
    """What the calls do, whoever waits for them.

    Args:
        session: of the client.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def grant(self, payment_id: str, wallet: str, options: MoneyOptions) -> Plan[Reward]:
        """Grants a reward now."""
        body = {"paymentId": payment_id, **({"wallet": wallet} if wallet else {})}
        return self._session.ask(Reward, methods.GRANT, options, body=body)

    def get(self, payment_id: str, options: CallOptions) -> Plan[Reward]:
        """Reads one reward."""
        path = {"payment_id": payment_id}
        return self._session.ask(Reward, methods.GET_REWARD, options, path=path)

    def page(self, page_size: int, options: CallOptions) -> Callable[[str], Plan[Page[Reward]]]:
        """Answers how to read one page."""

        def read(token: str) -> Plan[Page[Reward]]:
            query = {"pageSize": str(page_size), "pageToken": token}
            answer = yield from self._session.ask(
                ListRewardsResponse, methods.LIST_REWARDS, options, query=query
            )
            return Page(answer.rewards, answer.next_page_token)

        return read


class Rewards:
    """`client.rewards`.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plans = RewardPlans(connection.session)

    def grant(
        self, payment_id: str, *, wallet: str = "", **options: Unpack[MoneyOptions]
    ) -> Reward:
        """Grants the reward of a captured payment now; its event leads to the same one reward.

        Args:
            payment_id: the payment.
            wallet: Solana address in base58; the payment's own or the configured one when empty.
            **options: see MoneyOptions.
        """
        return self._connection.run(self._plans.grant(payment_id, wallet, options))

    def get(self, payment_id: str, **options: Unpack[CallOptions]) -> Reward:
        """Reads the reward of one payment."""
        return self._connection.run(self._plans.get(payment_id, options))

    def list(
        self, *, page_size: int = limits.PAGE_SIZE, **options: Unpack[CallOptions]
    ) -> Iterator[Reward]:
        """Reads all rewards, newest first, page by page as they are used."""
        return self._connection.pages(self._plans.page(page_size, options))


class AsyncRewards:
    """`client.rewards` of the async client; the same calls.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._plans = RewardPlans(connection.session)

    async def grant(
        self, payment_id: str, *, wallet: str = "", **options: Unpack[MoneyOptions]
    ) -> Reward:
        """As `Rewards.grant`."""
        return await self._connection.run(self._plans.grant(payment_id, wallet, options))

    async def get(self, payment_id: str, **options: Unpack[CallOptions]) -> Reward:
        """As `Rewards.get`."""
        return await self._connection.run(self._plans.get(payment_id, options))

    def list(
        self, *, page_size: int = limits.PAGE_SIZE, **options: Unpack[CallOptions]
    ) -> AsyncIterator[Reward]:
        """As `Rewards.list`."""
        return self._connection.pages(self._plans.page(page_size, options))
