"""The service as it runs, in its own process on a real chain: killed, wiped, restarted."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from smartpay.payments.v1 import payment_pb2, payments_pb2
from smartpay.payments.v1.payments_pb2_grpc import (
    PaymentsServiceServicer,
    add_PaymentsServiceServicer_to_server,
)
from smartpay.rewards.v1 import rewards_pb2
from smartpay.rewards.v1.rewards_pb2_grpc import RewardsServiceStub
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import DEMO_MERCHANT, as_merchant, write_merchants
from smartpay_rewards.deploy import DeploySettings, deploy
from smartpay_rewards.testing import ISSUER, RECEIPT_KEY, WALLET, payment_id
from smartpay_sandbox.listener import listening
from smartpay_sandbox.solana import SolanaSimulator

COUNT = 20
UP_SECONDS = 60  # only a guard against hanging: nothing is decided by it


class PaymentsLog(PaymentsServiceServicer):
    """Twenty captured payments, told again to whoever asks from the beginning."""

    async def Watch(self, request: Any, context: Any) -> Any:
        now = Timestamp()
        now.FromDatetime(datetime.now(UTC))
        for number in range(int(request.cursor or 0), COUNT):
            payment = payment_pb2.Payment(
                payment_id=payment_id(number),
                merchant_id=DEMO_MERCHANT.merchant_id,
                status=payment_pb2.Payment.STATUS_SUCCEEDED,
                captured_amount=Money(minor_units=10_000, currency_code="USD"),
            )
            yield payments_pb2.WatchResponse(
                event=payment_pb2.PaymentEvent(
                    sequence=2,
                    time=now,
                    payment=payment,
                    reward_mark=payment_pb2.REWARD_MARK_RECEIPT,
                ),
                cursor=str(number + 1),
            )
        await asyncio.Event().wait()


@asynccontextmanager
async def running(folder: Path, url: str, mint: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SMARTPAY_LISTEN_SOCKET": str(folder / "rewards.sock"),
        "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
        "SMARTPAY_MERCHANTS_FILE": str(write_merchants(folder / "merchants.json")),
        "SOLANA_RPC_URL": url,
        "SPL_TOKEN_MINT_ADDRESS": mint,
        "MINT_AUTHORITY_SECRET_KEY": str(ISSUER),
        "DEFAULT_USER_WALLET": WALLET,
        "REWARDS_RECEIPT_KEY": RECEIPT_KEY.hex(),
        "REWARDS_STORE_PATH": str(folder / "rewards.sqlite"),
        "REWARDS_POLL_SECONDS": "0.05",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "smartpay_rewards", env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(UP_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def all_final(folder: Path) -> list[rewards_pb2.Reward]:
    """Wait until every reward is final, as the merchant sees it."""
    options = [("grpc.default_authority", "test")]
    socket = f"unix:{folder / 'rewards.sock'}"
    async with asyncio.timeout(UP_SECONDS), grpc.aio.insecure_channel(socket, options) as channel:
        stub = RewardsServiceStub(channel)
        while True:
            page = await stub.ListRewards(
                rewards_pb2.ListRewardsRequest(page_size=100),
                metadata=as_merchant(),
                wait_for_ready=True,
            )
            states = {each.status for each in page.rewards}
            if len(page.rewards) == COUNT and states == {rewards_pb2.Reward.STATUS_FINAL}:
                return sorted(page.rewards, key=lambda reward: reward.payment_id)
            await asyncio.sleep(0.05)


async def test_killed_wiped_and_restarted_it_mints_each_reward_once(tmp_path: Path) -> None:
    simulator = SolanaSimulator(tmp_path / "chain")
    await simulator.start()
    payments = grpc.aio.server()
    log = PaymentsLog()  # type: ignore[abstract]  # only Watch is called
    add_PaymentsServiceServicer_to_server(log, payments)
    payments.add_insecure_port(f"unix:{tmp_path / 'egress.sock'}")
    await payments.start()

    def minted() -> int:
        memos = simulator.dump()["memos"]
        return sum(count for memo, count in memos.items() if memo.startswith("pay_"))

    async with listening(simulator.app) as url:
        settings = DeploySettings(rpc_url=url, mint_authority=SecretStr(str(ISSUER)))
        mint = (await deploy(settings))["mint"]
        async with running(tmp_path, url, mint) as process:
            await reached(lambda: minted() > 0)
            process.kill()
            await process.wait()
        async with running(tmp_path, url, mint) as process:
            first = await all_final(tmp_path)
            process.terminate()
            assert await process.wait() == 0
        for file in tmp_path.glob("rewards.sqlite*"):
            file.unlink()
        async with running(tmp_path, url, mint) as process:
            again = await all_final(tmp_path)
    await payments.stop(None)
    assert minted() == COUNT
    assert simulator.dump()["mints"][mint]["supply"] == str(COUNT * 2_000_000)
    assert [each.signature for each in again] == [each.signature for each in first]
    await simulator.stop()
