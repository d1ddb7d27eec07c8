"""Whole payments on the sandbox's chain: saga, store, recovery and the real adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from services.payments.tests.conftest import WALLET
from smartpay_payments.adapters.solana_pay_chain import SolanaChain, SolanaRpc
from smartpay_payments.adapters.solana_pay_processor import SolanaAccount, SolanaPayProcessor
from smartpay_payments.domain.eligibility import Account
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.payment import (
    Money,
    Payment,
    RefundReason,
    RefundStatus,
    Status,
)
from smartpay_sandbox.solana_testing import SolanaSandbox, solana_sandbox
from smartpay_sandbox.solana_wallets import USDC_MINT

MERCHANT, REFUNDS = (Keypair.from_seed(bytes([n]) * 32) for n in (1, 2))
ASKED = 1_500_000
DUST = {"USDC": 1_000, "SOL": 1_000_000}


@dataclass
class Shop:
    """A story whose wallet rail is the real one, and the chain under it."""

    story: Any
    chain: SolanaSandbox

    async def order(self, units: int = ASKED, currency: str = "USDC") -> Payment:
        payment: Payment = await self.story.create(
            amount=Money(units, currency), tokens={WALLET: "solana_pay"}
        )
        assert payment.status is Status.REQUIRES_ACTION
        return payment

    def pay(self, payment: Payment, **way: Any) -> dict[str, str]:
        assert payment.next_action is not None
        paid = self.chain.pay(payment.next_action.url, **way)
        self.chain.pass_slots()
        return paid

    async def recovered(self, payment: Payment, minutes: int = 6, times: int = 4) -> Payment:
        """Lets time pass, and recovery look, as often as a refund needs to become final."""
        for _ in range(times):
            self.story.clock.advance(minutes=minutes)
            self.chain.pass_slots()
            while await self.story.recovery.step():
                pass
        found: Payment = await self.story.read(payment)
        return found

    def given_back(self) -> list[tuple[str, str]]:
        refunds = self.chain.simulator.dump()["refunds"].values()
        return sorted((r["payee"], r["amount"]) for r in refunds)

    async def balanced(self, payment: Payment) -> None:
        """The ledger sums to zero, and what it says we hold is what the chain gave us."""
        balance = await self.story.balance(payment)
        assert sum(balance.values()) == 0
        dump = self.chain.simulator.dump()
        came = sum(int(t["amount"]) for each in dump["transfers"].values() for t in each)
        went = sum(int(r["amount"]) for r in dump["refunds"].values())
        assert balance.get(f"processor:{WALLET}", 0) == came - went


@asynccontextmanager
async def opened_shop(folder: Path, new_story: Any) -> AsyncIterator[Shop]:
    async with solana_sandbox(folder) as chain, new_story(folder / "payments.db") as story:
        chain.fund(str(MERCHANT.pubkey()), sol="1", usdc="1")
        chain.fund(str(REFUNDS.pubkey()), sol="10", usdc="1000")
        rpc = SolanaRpc(chain.url, timeout_seconds=5, connections_max=4)
        accounts = {WALLET: SolanaAccount(str(MERCHANT.pubkey()), REFUNDS)}
        week = 7 * 86400.0
        rail = SolanaPayProcessor(accounts, SolanaChain(rpc), USDC_MINT, DUST, week)
        story.wallet = rail
        account = Account(WALLET, "solana", frozenset({"USDC", "SOL"}), True)
        story.terms = replace(story.terms, accounts=(account,))
        story.advisor.ranking = (WALLET,)
        await story.restart()
        try:
            yield Shop(story, chain)
        finally:
            await rail.close()


@pytest.fixture
async def shop(tmp_path: Path, new_story: Any) -> AsyncIterator[Shop]:
    async with opened_shop(tmp_path, new_story) as running:
        yield running


@pytest.mark.parametrize(("currency", "units"), [("USDC", ASKED), ("SOL", 250_000_000)])
async def test_a_payment_in_full_succeeds_by_itself(shop: Shop, currency: str, units: int) -> None:
    payment = await shop.order(units, currency)
    shop.pay(payment)
    payment = await shop.recovered(payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, units)
    assert shop.given_back() == []
    await shop.balanced(payment)


async def test_a_payment_in_parts_succeeds_with_the_last(shop: Shop) -> None:
    payment = await shop.order()
    shop.pay(payment, amount="0.4")
    payment = await shop.recovered(payment)
    assert payment.status is Status.REQUIRES_ACTION
    assert payment.next_action is not None
    assert "amount=1.1&" in payment.next_action.url
    shop.pay(payment)
    payment = await shop.recovered(payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, ASKED)
    assert shop.given_back() == []
    await shop.balanced(payment)


async def test_what_is_too_much_goes_back_once(shop: Shop) -> None:
    payment = await shop.order()
    paid = shop.pay(payment, amount="2")
    payment = await shop.recovered(payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, ASKED)
    [refund] = payment.refunds
    assert (refund.reason, refund.status) == (RefundReason.OVERPAYMENT, RefundStatus.SUCCEEDED)
    assert shop.given_back() == [(paid["payer"], "500000")]
    await shop.balanced(payment)


async def test_the_second_payment_to_one_request_goes_back_to_its_own_sender(shop: Shop) -> None:
    payment = await shop.order()
    shop.pay(payment)
    second = shop.pay(payment, payer="somebody else")
    payment = await shop.recovered(payment)
    assert payment.status is Status.SUCCEEDED
    assert shop.given_back() == [(second["payer"], str(ASKED))]
    await shop.balanced(payment)


async def test_a_payment_after_the_request_expired_goes_back(shop: Shop) -> None:
    payment = await shop.order()
    expired = await shop.recovered(payment, minutes=90, times=1)
    assert (expired.status, expired.status_reason) == (Status.CANCELED, "action_expired")
    paid = shop.pay(payment)
    late = await shop.recovered(expired)
    assert late.status is Status.CANCELED
    assert [r.status for r in late.refunds] == [RefundStatus.SUCCEEDED]
    assert shop.given_back() == [(paid["payer"], str(ASKED))]
    await shop.balanced(late)


async def test_what_came_before_a_cancellation_goes_back_and_dust_stays(shop: Shop) -> None:
    payment = await shop.order()
    part = shop.pay(payment, amount="0.4")
    shop.pay(payment, amount="0.0005", payer="duster")
    payment = await shop.recovered(payment, times=1)
    canceled = await shop.recovered(await shop.story.cancel(payment))
    assert canceled.status is Status.CANCELED
    assert shop.given_back() == [(part["payer"], "400000")]
    await shop.balanced(canceled)


async def test_a_merchant_s_refund_goes_to_the_first_payer(shop: Shop) -> None:
    payment = await shop.order()
    paid = shop.pay(payment)
    payment = await shop.recovered(payment)
    refund = replace(shop.story.refund(600_000), amount=Money(600_000, "USDC"))
    claim = Claim("r", payment.payment_id, "hash")
    await shop.story.commands.refund(payment, refund, claim)
    payment = await shop.recovered(payment)
    assert payment.refunded_minor == 600_000
    assert shop.given_back() == [(paid["payer"], "600000")]
    await shop.balanced(payment)


async def test_a_crash_at_any_write_pays_back_once(
    new_story: Any, crash: type[BaseException], tmp_path: Path
) -> None:
    """Dies at the first write after the payer paid too much, then at the second, and so on."""
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        folder = tmp_path / str(dies_at)
        folder.mkdir()
        async with opened_shop(folder, new_story) as shop:
            payment = await shop.order()
            paid = shop.pay(payment, amount="2")
            shop.story.fate.dies_at = shop.story.fate.points + dies_at
            try:
                for _ in range(5):
                    shop.story.clock.advance(minutes=6)
                    shop.chain.pass_slots()
                    await shop.story.saga.advance(await shop.story.read(payment), shop.story.terms)
                survived = True
            except crash:
                await shop.story.restart()
            payment = await shop.recovered(payment)
            assert payment.status is Status.SUCCEEDED
            assert [r.status for r in payment.refunds] == [RefundStatus.SUCCEEDED]
            assert shop.given_back() == [(paid["payer"], "500000")]
            await shop.balanced(payment)
    assert dies_at > 4, "a payment and its refund are more than two writes"
