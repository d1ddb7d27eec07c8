"""POST /reward: the reward of a settled payment now, the same one its event leads to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_rewards.domain.issuance import (
    Changed,
    GrantRequest,
    Reward,
    RewardKey,
    RewardStore,
    Rules,
    State,
)
from smartpay_rewards.domain.reward import SettledPayment


class Payments(Protocol):
    """The payments service, asked on behalf of the merchant."""

    async def settled(self, key: RewardKey, request_id: str) -> SettledPayment:
        """Look a payment up.

        Raises:
            Refusal: REWARD_NOT_FOUND when the merchant has no such payment; PAYMENT_NOT_SETTLED
                when it is not captured.
        """
        ...


class Grants:
    """Grants rewards; whoever comes first, grant or event, there is one reward."""

    def __init__(
        self,
        store: RewardStore,
        payments: Payments,
        rules: Rules,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._payments = payments
        self._rules = rules
        self._clock = clock

    async def grant(
        self, key: RewardKey, wallet: str, request: GrantRequest, request_id: str
    ) -> Changed:
        """Return the payment's reward, made now if its event has not come yet.

        Args:
            key: the payment and its tenant.
            wallet: where to mint; "" for the payment's own or the default.
            request: what makes it the same call again.
            request_id: to find the call in all logs.

        Raises:
            Refusal: WALLET_INVALID, REWARD_NOT_FOUND, PAYMENT_NOT_SETTLED, WALLET_MISMATCH or
                IDEMPOTENCY_KEY_REUSED.
        """
        if wallet and not self._rules.can_hold(wallet):
            raise Refusal(
                Kind.INVALID_ARGUMENT,
                "WALLET_INVALID",
                "The wallet is not an address that can hold tokens.",
                remedy="Send the base58 address of a person's wallet, or leave wallet out.",
                field="wallet",
            )
        payment: SettledPayment | None = None
        if await self._store.get(key) is None:
            payment = await self._payments.settled(key, request_id)

        def decide(existing: Reward | None) -> Reward | None:
            now = self._clock()
            if existing is not None:
                return self._regrant(existing, wallet, now)
            return self._rules.apply(None, payment, now, wallet) if payment else None

        return await self._store.change(key, decide, request=request)

    def _regrant(self, reward: Reward, wallet: str, now: datetime) -> Reward:
        if wallet in ("", reward.wallet):
            return self._rules.resumed(reward, now) if reward.state is State.PARKED else reward
        if reward.sent_once:
            raise Refusal(
                Kind.FAILED_PRECONDITION,
                "WALLET_MISMATCH",
                "The reward of this payment goes to another wallet already.",
                remedy="Leave wallet out to see the reward as it was issued.",
                field="wallet",
            )
        return self._rules.with_wallet(reward, wallet, now)


def not_found() -> Refusal:
    """Refuse a payment the merchant does not have, or that has no reward yet."""
    return Refusal(
        Kind.NOT_FOUND,
        "REWARD_NOT_FOUND",
        "The merchant has no such payment, or it has no reward yet.",
        remedy="Check the payment id, and that the payment was captured.",
        field="payment_id",
    )
