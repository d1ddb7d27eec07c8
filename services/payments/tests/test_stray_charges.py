"""Charges that no payment of ours knows are found on every rail, and ours are never taken for one.

A rail joins by a harness below: how something is sold, how a stray comes about, how it goes dark.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from services.payments.tests.amazon_pay_till import account
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT
from smartpay_payments.adapters.amazon_pay_client import AmazonPayClient
from smartpay_payments.adapters.amazon_pay_processor import AmazonPayProcessor
from smartpay_payments.adapters.amazon_pay_reports import AmazonPayReports
from smartpay_payments.adapters.solana_pay_books import SolanaBooks
from smartpay_payments.adapters.solana_pay_chain import SolanaChain, SolanaRpc
from smartpay_payments.adapters.solana_pay_processor import SolanaAccount, SolanaPayProcessor
from smartpay_payments.adapters.solana_pay_url import TransferRequest
from smartpay_payments.adapters.sqlite_ledger import SqliteLedger
from smartpay_payments.adapters.stripe_books import StripeBooks
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.eligibility import Account
from smartpay_payments.domain.payment import Money, Payment, Status
from smartpay_payments.domain.reconciliation import BreakKind, ProcessorBooks
from smartpay_payments.reconcile import Report, reconcile_store
from smartpay_payments.settlement import SettledAccount, Settlement
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox
from smartpay_sandbox.solana_testing import SolanaSandbox, solana_sandbox
from smartpay_sandbox.solana_wallets import USDC_MINT
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

ACCOUNT = DEMO_ACCOUNTS[0]
STRAY = 7_000_000
"""Minor units; seven USDC, and enough on the other rails."""


class Shop(ABC):
    """One rail under a story."""

    name: str
    currency = "USD"
    token: str
    story: Any
    processor: Any
    books: ClassVar[dict[str, ProcessorBooks]] = {}
    partial_books: ClassVar[dict[str, ProcessorBooks]] = {}
    sandbox: Any

    @abstractmethod
    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        """Starts the sandbox and the adapters; the stack ends them."""

    @abstractmethod
    async def stray(self) -> str:
        """Lets money come in that belongs to nothing of ours; answers its id at the vendor."""

    @abstractmethod
    def go_dark(self) -> None:
        """Lets the vendor's list fail from now on."""

    async def payer_acts(self, payment: Payment) -> None:
        """Lets the payer do what the rail asks of them; here, nothing."""
        assert payment.next_action is None

    def later(self, **duration: float) -> None:
        self.story.clock.advance(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())

    async def join(self, story: Any) -> None:
        self.story = story
        story.clock.now = datetime.fromtimestamp(self.sandbox.clock(), UTC)
        story.more_rails[self.name] = self.processor
        known = Account(ACCOUNT, self.name, frozenset({self.currency}), True)
        story.terms = replace(story.terms, accounts=(known,))
        story.advisor.ranking = (ACCOUNT,)
        await story.restart()
        self.later(hours=2)

    async def sells(self) -> Payment:
        order = {"amount": Money(1_999_000, self.currency), "tokens": {ACCOUNT: self.token}}
        payment: Payment = await self.story.create(**order)
        await self.payer_acts(payment)
        for _ in range(3):
            self.later(minutes=2)
            while await self.story.recovery.step():
                pass
        payment = await self.story.read(payment)
        assert payment.status is Status.SUCCEEDED
        return payment

    async def reports_come(self) -> None:
        """Lets the vendor write what it writes late; here, nothing."""
        self.later(seconds=1)

    @property
    def account(self) -> SettledAccount:
        """The one account, as settlement and reconciliation know it."""
        return SettledAccount(ACCOUNT, self.name, DEMO_MERCHANT.merchant_id, False)

    async def reconciled(self) -> Report:
        now = self.story.clock()
        return await reconcile_store(
            self.story.path,
            [self.account],
            self.books,
            {self.name: self.processor},
            (now - timedelta(minutes=50), now + timedelta(hours=1)),
            now + timedelta(hours=1),
            partial_books=self.partial_books,
        )


class StripeShop(Shop):
    name, token = "stripe", "pm_card_visa"
    sandbox: StripeSandbox

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self.sandbox = await stack.enter_async_context(stripe_sandbox(folder))
        keys = {ACCOUNT: "sk_test_first"}
        url = self.sandbox.stripe_url
        self.processor = StripeProcessor(
            keys, url, "https://shop.test", 5.0, lambda: self.story.clock()
        )
        stack.push_async_callback(self.processor.close)
        self.books = {"stripe": StripeBooks(self.processor.clients)}  # type: ignore[misc]

    async def stray(self) -> str:
        made = await self.sandbox.client().v1.payment_intents.create_async(
            params={
                "amount": STRAY,
                "currency": "usd",
                "payment_method": "pm_card_visa",
                "confirm": True,
                "allowed_payment_method_types": ["card"],
                "return_url": "https://shop.test",
            }
        )
        return made.id

    def go_dark(self) -> None:
        rule = {"kind": "error_before", "times": 9, "path_prefix": "/v1/payment_intents"}
        self.sandbox.simulator.set_faults([rule])


class AmazonPayShop(Shop):
    name = "amazon_pay"
    sandbox: AmazonPaySandbox
    reports: AmazonPayReports

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self.sandbox = await stack.enter_async_context(amazon_pay_sandbox(folder))
        accounts, url = {ACCOUNT: account("first")}, self.sandbox.amazon_pay_url
        client = AmazonPayClient(accounts, url, 5.0, lambda: self.story.clock())
        self.processor = AmazonPayProcessor(client, "https://shop.test", lambda: self.story.clock())
        stack.push_async_callback(self.processor.close)
        self.reports = AmazonPayReports(client, lambda: self.story.clock())
        self.partial_books = {"amazon_pay": self.reports}  # type: ignore[misc]
        self.token = self._permission()

    def _permission(self) -> str:
        return str(self.sandbox.simulator.grant("AFIRST", "1111")["chargePermissionId"])

    async def stray(self) -> str:
        body = {
            "chargePermissionId": self._permission(),
            "chargeAmount": {"amount": f"{STRAY // 100}.00", "currencyCode": "USD"},
            "captureNow": True,
        }
        _, made = await self.sandbox.call("POST", "/v2/charges", body, key="stray")
        return str(made["chargeId"])

    async def reports_come(self) -> None:
        settlement = Settlement(
            SqliteLedger(self.story.store),
            self.story.commands,
            {"amazon_pay": self.reports},
            lambda: [self.account],
            self.story.clock,
            1.0,
        )
        for _ in range(2):
            self.later(seconds=10)
            await settlement.round()

    def go_dark(self) -> None:
        rule = {"kind": "error_before", "times": 9, "path_prefix": "/v2/reports"}
        self.sandbox.simulator.set_faults([rule])


class SolanaShop(Shop):
    name, currency, token = "solana", "USDC", "solana_pay"
    merchant, refunds = (Keypair.from_seed(bytes([n]) * 32) for n in (1, 2))
    reference = str(Pubkey(bytes([9]) * 32))
    sandbox: SolanaSandbox

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self.sandbox = await stack.enter_async_context(solana_sandbox(folder))
        self.sandbox.fund(str(self.merchant.pubkey()), sol="1", usdc="1")
        self.sandbox.fund(str(self.refunds.pubkey()), sol="10", usdc="1000")
        rpc = SolanaRpc(self.sandbox.url, timeout_seconds=5, connections_max=4)
        accounts = {ACCOUNT: SolanaAccount(str(self.merchant.pubkey()), self.refunds)}
        dust = {"USDC": 1_000, "SOL": 1_000_000}
        chain = SolanaChain(rpc)
        self.processor = SolanaPayProcessor(accounts, chain, USDC_MINT, dust, 7 * 86400.0)
        stack.push_async_callback(self.processor.close)
        mints = {"SOL": "", "USDC": USDC_MINT}
        self.partial_books = {"solana": SolanaBooks(accounts, chain, mints, dust)}  # type: ignore[misc]

    async def payer_acts(self, payment: Payment) -> None:
        assert payment.next_action is not None
        self.sandbox.pay(payment.next_action.url)

    def ask(self, minor: int, reference: str, currency: str = "USDC") -> str:
        """Writes a transfer request that is none of a payment's."""
        mint, decimals = (USDC_MINT, 6) if currency == "USDC" else ("", 9)
        wallet = str(self.merchant.pubkey())
        return TransferRequest(wallet, minor, decimals, reference, mint).url

    async def stray(self) -> str:
        self.sandbox.pay(self.ask(STRAY - 1, self.reference))
        self.sandbox.pay(self.ask(1, self.reference))
        return self.reference

    def go_dark(self) -> None:
        self.sandbox.fail_next("error_before", "getSignaturesForAddress", 99)


@pytest.fixture(params=[StripeShop, AmazonPayShop, SolanaShop], ids=lambda rail: rail.name)
async def shop(request: Any, tmp_path: Path, new_story: Any) -> AsyncIterator[Shop]:
    rail: Shop = request.param()
    async with AsyncExitStack() as stack:
        await rail.open(stack, tmp_path)
        await rail.join(await stack.enter_async_context(new_story(tmp_path / "payments.db")))
        yield rail


async def test_what_we_sold_is_no_stray(shop: Shop) -> None:
    await shop.sells()
    await shop.reports_come()
    report = await shop.reconciled()
    assert (report.breaks, report.payments, report.unread_accounts) == ([], 1, {})


async def test_money_that_belongs_to_no_payment_is_a_break(shop: Shop) -> None:
    await shop.sells()
    name = await shop.stray()
    shop.later(minutes=20)
    await shop.reports_come()
    (found,) = (await shop.reconciled()).breaks
    assert (found.kind, found.processor_payment_id) == (BreakKind.MISSING_WITH_US, name)
    assert (found.payment_id, found.processor_account_id) == ("", ACCOUNT)
    assert f"CAPTURED {STRAY} {shop.currency}" in found.theirs
    assert not found.heals


async def test_a_stray_that_is_young_is_no_break_yet(shop: Shop) -> None:
    await shop.stray()
    shop.later(minutes=1)
    await shop.reports_come()
    now = shop.story.clock()
    report = await reconcile_store(
        shop.story.path,
        [shop.account],
        shop.books,
        {shop.name: shop.processor},
        (now - timedelta(minutes=50), now),
        now,
        partial_books=shop.partial_books,
    )
    assert (report.breaks, report.too_young) == ([], 1)


async def test_a_list_that_can_not_be_read_says_so_and_makes_no_break(shop: Shop) -> None:
    await shop.sells()
    await shop.stray()
    shop.later(minutes=20)
    await shop.reports_come()
    shop.go_dark()
    report = await shop.reconciled()
    assert (report.breaks, set(report.unread_accounts)) == ([], {ACCOUNT})


# ---- what only a chain has -------------------------------------------------------------------


@pytest.fixture
async def wallet(tmp_path: Path, new_story: Any) -> AsyncIterator[SolanaShop]:
    rail = SolanaShop()
    async with AsyncExitStack() as stack:
        await rail.open(stack, tmp_path)
        await rail.join(await stack.enter_async_context(new_story(tmp_path / "payments.db")))
        yield rail


async def strays(wallet: SolanaShop) -> list[str]:
    wallet.later(minutes=20)
    return sorted(found.theirs for found in (await wallet.reconciled()).breaks)


async def test_a_transfer_without_a_reference_is_found_in_each_coin(wallet: SolanaShop) -> None:
    for currency in ("USDC", "SOL"):
        wallet.sandbox.pay(wallet.ask(STRAY, wallet.reference, currency), references=())
    assert await strays(wallet) == [f"CAPTURED {STRAY} {coin}" for coin in ("SOL", "USDC")]


async def test_dust_and_what_failed_are_not_asked_after(wallet: SolanaShop) -> None:
    wallet.sandbox.pay(wallet.ask(1_000, wallet.reference))
    wallet.sandbox.pay(wallet.ask(STRAY, wallet.reference), fails=True)
    wallet.sandbox.pay(wallet.ask(STRAY, wallet.reference), mint="FAKE")
    assert await strays(wallet) == []


async def test_a_late_transfer_to_a_payment_is_that_payments(wallet: SolanaShop) -> None:
    payment = await wallet.sells()
    wallet.sandbox.pay(wallet.ask(STRAY, payment.last_attempt.processor_payment_id))
    wallet.later(minutes=20)
    (found,) = (await wallet.reconciled()).breaks
    assert (found.kind, found.payment_id) == (BreakKind.AMOUNT_MISMATCH, payment.payment_id)
    assert found.heals
