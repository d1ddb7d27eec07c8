from pathlib import Path
from typing import Any

import grpc
import pytest
from solders.pubkey import Pubkey

from smartpay.rewards.v1 import rewards_pb2
from smartpay.rewards.v1.rewards_pb2_grpc import (
    RewardsServiceStub,
    add_RewardsServiceServicer_to_server,
)
from smartpay_chassis.testing import (
    OTHER_MERCHANT,
    FakeClock,
    as_merchant,
    as_service,
    error_info,
    serve_for_test,
)
from smartpay_rewards.adapters.solana_chain import SolanaChain, SolanaRpc
from smartpay_rewards.adapters.sqlite_rewards import SqliteRewards
from smartpay_rewards.domain.granting import Grants, not_found
from smartpay_rewards.domain.issuance import Minted, RewardKey, Rules, finalized, parked, sent
from smartpay_rewards.domain.reward import SettledPayment
from smartpay_rewards.server import Rewards
from smartpay_rewards.testing import (
    ISSUER,
    OTHER_WALLET,
    RECEIPT_KEY,
    START,
    WALLET,
    a_payment,
    payment_id,
    terms,
)
from smartpay_rewards.worker import Pace, Worker

MINT = str(Pubkey.from_bytes(bytes([9]) * 32))
REWARDS = rewards_pb2.DESCRIPTOR.services_by_name["RewardsService"]


class Payments:
    """Knows one settled payment, and one that failed."""

    def __init__(self) -> None:
        self.asked = 0

    async def settled(self, key: RewardKey, request_id: str) -> SettledPayment:
        self.asked += 1
        if key != RewardKey(a_payment().merchant_id, False, payment_id(1)):
            raise not_found()
        return a_payment(1, mark=None, sequence=0)


class House:
    """The service without its network: a real store and server, a chain that is never called."""

    def __init__(self, store: SqliteRewards, channel: grpc.aio.Channel) -> None:
        self.store = store
        self.stub = RewardsServiceStub(channel)

    async def grant(
        self, number: int = 1, wallet: str = "", key: str = "k", merchant: Any = None
    ) -> rewards_pb2.Reward:
        metadata = as_merchant(*([merchant] if merchant else []), idempotency_key=key)
        request = rewards_pb2.GrantRequest(payment_id=payment_id(number), wallet=wallet)
        return (await self.stub.Grant(request, metadata=metadata)).reward

    async def refusal(self, **arguments: Any) -> dict[str, Any]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.grant(**arguments)
        return error_info(caught.value)


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    store = await SqliteRewards.open(tmp_path / "rewards.sqlite")
    rpc = SolanaRpc("http://127.0.0.1:1", timeout_seconds=1, connections_max=1)
    mint = Pubkey.from_string(MINT)
    chain = SolanaChain(rpc, ISSUER, mint, RECEIPT_KEY, blockhash_seconds=5)
    rules, clock = Rules(terms(), WALLET, chain.can_hold), FakeClock(START)
    worker = Worker(store, chain, rules, clock, Pace())
    servicer = Rewards(Grants(store, Payments(), rules, clock), store, chain, MINT, worker)
    async with serve_for_test(
        [(add_RewardsServiceServicer_to_server, servicer, REWARDS)]
    ) as channel:
        yield House(store, channel)
    await rpc.close()
    await store.close()


async def event(house: House, number: int = 1, **changes: Any) -> None:
    """Deliver a payment's event."""
    rules = Rules(terms(), WALLET, lambda wallet: True)
    payment = a_payment(number, **changes)
    key = RewardKey(payment.merchant_id, payment.livemode, payment.payment_id)
    await house.store.change(key, lambda existing: rules.apply(existing, payment, START))


async def issue(house: House, number: int = 1) -> None:
    """Send and finalize a reward."""
    key = RewardKey(a_payment().merchant_id, False, payment_id(number))
    await house.store.change(
        key, lambda r: r and finalized(sent(r, "s", START, START), Minted("s", r.wallet, 7), START)
    )


async def test_a_grant_before_the_event_waits_for_its_mark_and_is_the_same_reward(
    house: House,
) -> None:
    granted = await house.grant()
    assert granted.status == rewards_pb2.Reward.STATUS_NEW
    assert (granted.token_base_units, granted.token_decimals) == (2_000_000, 6)
    assert (granted.wallet, granted.mint) == (WALLET, MINT)
    assert granted.receipt_address
    assert await house.store.due(START, 9) == []
    await event(house)
    assert len(await house.store.due(START, 9)) == 1
    assert await house.grant(key="another") == granted


async def test_a_grant_after_the_event_answers_the_events_reward(house: House) -> None:
    await event(house, wallet=OTHER_WALLET)
    await issue(house)
    granted = await house.grant()
    assert granted.status == rewards_pb2.Reward.STATUS_FINAL
    assert (granted.wallet, granted.signature) == (OTHER_WALLET, "s")
    assert granted.final_time.ToDatetime() == START.replace(tzinfo=None)


async def test_a_repeated_grant_is_marked_as_a_replay_and_makes_no_second_reward(
    house: House,
) -> None:
    request = rewards_pb2.GrantRequest(payment_id=payment_id(1))
    calls = []
    for _ in range(2):
        call = house.stub.Grant(request, metadata=as_merchant(idempotency_key="k"))
        calls.append((await call, dict(await call.initial_metadata())))
    assert calls[0][0] == calls[1][0]
    assert [headers.get("idempotent-replayed") for _, headers in calls] == [None, "true"]


async def test_a_key_reused_with_another_body_or_missing_is_refused(house: House) -> None:
    await house.grant(key="k")
    reused = await house.refusal(wallet=OTHER_WALLET, key="k")
    assert (reused["code"], reused["reason"]) == ("INVALID_ARGUMENT", "IDEMPOTENCY_KEY_REUSED")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.Grant(
            rewards_pb2.GrantRequest(payment_id=payment_id(1)), metadata=as_merchant()
        )
    assert error_info(caught.value)["reason"] == "IDEMPOTENCY_KEY_REQUIRED"


async def test_another_wallet_is_taken_before_issue_and_refused_after(house: House) -> None:
    await event(house)
    assert (await house.grant(wallet=OTHER_WALLET, key="a")).wallet == OTHER_WALLET
    await issue(house)
    assert (await house.grant(wallet=OTHER_WALLET, key="b")).wallet == OTHER_WALLET
    refused = await house.refusal(wallet=WALLET, key="c")
    assert (refused["code"], refused["reason"]) == ("FAILED_PRECONDITION", "WALLET_MISMATCH")
    assert (refused["field"], bool(refused["remedy"])) == ("wallet", True)


async def test_a_wallet_that_no_person_owns_is_refused(house: House) -> None:
    program_owned, _ = Pubkey.find_program_address([b"x"], Pubkey.from_string(MINT))
    for number, wallet in enumerate((str(program_owned), str(ISSUER.pubkey()), MINT, "1" * 44)):
        refused = await house.refusal(wallet=wallet, key=f"k{number}")
        assert refused["reason"] == "WALLET_INVALID", wallet
        assert refused["field"] == "wallet"
    assert (await house.refusal(wallet="0OIl", key="z"))["reason"] == "FIELD_INVALID"


async def test_an_unknown_payment_and_another_merchants_are_not_found_alike(house: House) -> None:
    await event(house)
    unknown = await house.refusal(number=5)
    foreign = await house.refusal(merchant=OTHER_MERCHANT)
    assert unknown == foreign
    assert (unknown["code"], unknown["reason"]) == ("NOT_FOUND", "REWARD_NOT_FOUND")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.GetReward(
            rewards_pb2.GetRewardRequest(payment_id=payment_id(1)),
            metadata=as_merchant(OTHER_MERCHANT),
        )
    assert error_info(caught.value)["code"] == "NOT_FOUND"


async def test_a_parked_reward_tells_why_and_a_grant_tries_it_again(house: House) -> None:
    await event(house, currency_code="CHF")
    key = RewardKey(a_payment().merchant_id, False, payment_id(1))
    await house.store.change(key, lambda r: r and parked(r, r.hold))
    request = rewards_pb2.GetRewardRequest(payment_id=payment_id(1))
    seen = (await house.stub.GetReward(request, metadata=as_service("payments"))).reward
    assert seen.status == rewards_pb2.Reward.STATUS_PARKED
    assert seen.park_reason.startswith("RATE_UNKNOWN")
    assert (await house.grant()).status == rewards_pb2.Reward.STATUS_NEW
    assert len(await house.store.due(START, 9)) == 1


async def test_lists_are_paged_and_bound_to_their_merchant(house: House) -> None:
    for number in range(5):
        await event(house, number)
    seen, token = [], ""
    while True:
        request = rewards_pb2.ListRewardsRequest(page_size=2, page_token=token)
        page = await house.stub.ListRewards(request, metadata=as_merchant())
        seen += [each.payment_id for each in page.rewards]
        token = page.next_page_token
        if not token:
            break
        stranger = rewards_pb2.ListRewardsRequest(page_token=token)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.stub.ListRewards(stranger, metadata=as_merchant(OTHER_MERCHANT))
        assert error_info(caught.value)["reason"] == "PAGE_TOKEN_INVALID"
    assert sorted(seen) == sorted(payment_id(number) for number in range(5))
    assert len(set(seen)) == 5
