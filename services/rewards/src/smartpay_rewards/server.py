"""Speaks the rewards contract: message in, domain call, message out."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.rewards.v1 import rewards_pb2
from smartpay.rewards.v1.rewards_pb2_grpc import RewardsServiceServicer
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_rewards.domain.granting import Grants, not_found
from smartpay_rewards.domain.issuance import (
    Chain,
    GrantRequest,
    Reward,
    RewardKey,
    RewardStore,
    State,
)
from smartpay_rewards.domain.reward import TOKEN_DECIMALS
from smartpay_rewards.worker import Worker

Context = grpc.aio.ServicerContext[object, object]

REPLAYED_HEADER = "idempotent-replayed"
_STATUS = {
    State.NEW: rewards_pb2.Reward.STATUS_NEW,
    State.SENT: rewards_pb2.Reward.STATUS_SENT,
    State.FINAL: rewards_pb2.Reward.STATUS_FINAL,
    State.PARKED: rewards_pb2.Reward.STATUS_PARKED,
    State.CANCELED: rewards_pb2.Reward.STATUS_CANCELED,
}


class Rewards(RewardsServiceServicer):
    """The rewards' methods.

    Args:
        grants: what POST /reward does.
        store: where rewards are read.
        chain: tells the receipt's address.
        mint: the token, base58.
        worker: woken when a grant made work.
    """

    def __init__(
        self, grants: Grants, store: RewardStore, chain: Chain, mint: str, worker: Worker
    ) -> None:
        self._grants = grants
        self._store = store
        self._chain = chain
        self._mint = mint
        self._worker = worker

    async def Grant(
        self, request: rewards_pb2.GrantRequest, context: Context
    ) -> rewards_pb2.GrantResponse:
        """Grants the reward of a settled payment now, instead of waiting for its event."""
        call = current_call()
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        changed = await self._grants.grant(
            _key(call, request.payment_id),
            request.wallet,
            GrantRequest(call.idempotency_key, digest),
            call.request_id,
        )
        if changed.replayed:
            call.respond_with(headers={REPLAYED_HEADER: "true"})
        self._worker.wake()
        return rewards_pb2.GrantResponse(reward=self._message(changed.reward))

    async def GetReward(
        self, request: rewards_pb2.GetRewardRequest, context: Context
    ) -> rewards_pb2.GetRewardResponse:
        """Shows the reward of one payment."""
        reward = await self._store.get(_key(current_call(), request.payment_id))
        return rewards_pb2.GetRewardResponse(reward=self._message(reward))

    async def ListRewards(
        self, request: rewards_pb2.ListRewardsRequest, context: Context
    ) -> rewards_pb2.ListRewardsResponse:
        """Lists the merchant's rewards, newest first."""
        call = current_call()
        bound_to = f"ListRewards {call.merchant_id} {call.livemode}"
        after = None
        if request.page_token:
            after = _after(decode_page_token(request.page_token, bound_to=bound_to))
        size = page_size(request.page_size)
        # One more than asked tells whether there is a next page.
        found = await self._store.page(call.merchant_id, call.livemode, after, size + 1)
        response = rewards_pb2.ListRewardsResponse(rewards=map(self._message, found[:size]))
        if len(found) > size:
            last = found[size - 1]
            position = f"{last.create_time.isoformat()} {last.key.payment_id}"
            response.next_page_token = encode_page_token(position, bound_to=bound_to)
        return response

    def _message(self, reward: Reward | None) -> rewards_pb2.Reward:
        """Spell a reward; raises Refusal REWARD_NOT_FOUND for none."""
        if reward is None:
            raise not_found()
        message = rewards_pb2.Reward(
            payment_id=reward.key.payment_id,
            merchant_id=reward.key.merchant_id,
            livemode=reward.key.livemode,
            status=_STATUS[reward.state],
            token_base_units=reward.token_base_units,
            token_decimals=TOKEN_DECIMALS,
            wallet=reward.wallet,
            mint=self._mint,
            signature=reward.signature,
            receipt_address=self._chain.receipt_address(reward.key.payment_id),
            park_reason=reward.hold if reward.state is State.PARKED else "",
            create_time=_timestamp(reward.create_time),
        )
        if reward.final_time is not None:
            message.final_time.CopyFrom(_timestamp(reward.final_time))
        return message


def _key(call: Call, payment_id: str) -> RewardKey:
    return RewardKey(call.merchant_id, call.livemode, payment_id)


def _after(position: str) -> tuple[datetime, str]:
    moment, payment_id = position.split(" ")
    return datetime.fromisoformat(moment), payment_id


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message
