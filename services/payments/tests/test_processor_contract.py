"""What every rail must keep to, whatever it is called: one suite over the port `Processor`.

A rail joins by a harness below: how its payer acts, how it breaks, and what its vendor's own books
say was taken and given back.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
from solders.keypair import Keypair

from services.payments.tests.amazon_pay_till import account
from smartpay_chassis.ids import derive
from smartpay_chassis.testing import DEMO_ACCOUNTS, FakeClock
from smartpay_payments.adapters.amazon_pay_client import AmazonPayClient
from smartpay_payments.adapters.amazon_pay_processor import AmazonPayProcessor
from smartpay_payments.adapters.solana_pay_chain import SolanaChain, SolanaRpc
from smartpay_payments.adapters.solana_pay_processor import SolanaAccount, SolanaPayProcessor
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.payment import (
    Attempt,
    AttemptStatus,
    CaptureMethod,
    Command,
    Money,
    Order,
    Payment,
    PendingCommand,
    Refund,
    RefundReason,
    RefundStatus,
    Status,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    Outcome,
    Processor,
    RefundOutcome,
)
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox
from smartpay_sandbox.solana_testing import SolanaSandbox, solana_sandbox
from smartpay_sandbox.solana_wallets import USDC_MINT
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

ACCOUNT = DEMO_ACCOUNTS[0]
PRICE = 1999
RETURN_URL = "https://shop.test/return"
STEPS_MAX = 6
"""Charge, the payer acts, a look or two, something asynchronous: no rail needs more."""
CLOSED_PORT = "http://127.0.0.1:9"


class Rail(ABC):
    """One rail with its sandbox, as the sentences below need it."""

    name: str
    holds = True
    """Whether money can be held first and captured later."""
    calls_to_charge = True
    """Whether a charge asks the vendor at all; elsewhere it only says where to pay."""
    can_stop_the_payer = True
    """Whether a payer who is too late can't pay any more."""
    limits_refunds = True
    """Whether the vendor itself gives back no more than it took."""
    currency = "USD"
    token: str
    declined_token: str = ""
    """The token of a payer who is refused; "" where nobody refuses."""
    waiting_token: str = ""
    """The token of a payer who must act before anything is charged; "" where nobody can."""

    processor: Processor
    clock: FakeClock

    @abstractmethod
    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        """Starts the sandbox and the adapter; the stack ends them."""

    @abstractmethod
    def at(self, url: str) -> Any:
        """Answers an adapter that believes its vendor to be at another address."""

    @abstractmethod
    def lose(self, verb: str) -> None:
        """Lets the next charge, capture, cancel or refund happen, and loses its answer."""

    @abstractmethod
    async def act(self, action: ActionRequired) -> None:
        """Lets the payer do what they are asked for; they may be too late."""

    @abstractmethod
    def taken(self) -> int:
        """Sums what the vendor's own books say was captured, in minor units."""

    @abstractmethod
    def given_back(self) -> int:
        """Sums what they say was given back, or is on its way."""

    def later(self, **duration: float) -> None:
        """Lets time pass for both."""
        self.clock.advance(**duration)

    # ---- builders, the same for all

    def attempt(self, token: str = "", **changes: Any) -> tuple[Payment, Attempt]:
        order = Order(
            amount=Money(PRICE, self.currency),
            tokens={ACCOUNT: token or self.token},
            fingerprint="",
            capture_method=CaptureMethod.AUTOMATIC,
        )
        payment = Payment(
            payment_id=derive("pay", "d1", "key"),
            merchant_id="mer_d1" + "m" * 24,
            livemode=False,
            order=replace(order, **changes),
            request_hash="",
            status=Status.PROCESSING,
            create_time=self.clock(),
            update_time=self.clock(),
        )
        attempt = Attempt(
            attempt_index=0,
            processor_account_id=ACCOUNT,
            processor=self.name,
            processor_key=f"{payment.payment_id}-0",
            request_body=self.processor.prepare(payment, ACCOUNT, 0),
            status=AttemptStatus.STARTED,
            start_time=self.clock(),
        )
        return payment, attempt

    def declined(self) -> tuple[Payment, Attempt]:
        """Prepares a charge that its payer's bank will decline."""
        return self.attempt(self.declined_token)

    async def drive(self, payment: Payment, attempt: Attempt) -> tuple[Attempt, Outcome]:
        """Does what the story would do until the charge has ended, the payer willing."""
        outcome: Outcome = NotKnown("not_asked")
        for _ in range(STEPS_MAX):
            if attempt.processor_payment_id:
                outcome = await self.processor.look(payment, attempt)
            else:
                outcome = await self.processor.charge(payment, attempt)
            if named := getattr(outcome, "processor_payment_id", ""):
                attempt = replace(attempt, processor_payment_id=named)
            if isinstance(outcome, ActionRequired):
                await self.act(outcome)
            if isinstance(outcome, Charged):
                attempt = replace(attempt, transfers=outcome.transfers)
            if isinstance(outcome, Charged | Declined | Canceled):
                break
            self.later(seconds=30)
        return attempt, outcome

    async def paid(self, **order: Any) -> tuple[Payment, Attempt]:
        payment, attempt = self.attempt(**order)
        attempt, outcome = await self.drive(payment, attempt)
        assert isinstance(outcome, Charged), outcome
        return payment, attempt

    async def held(self) -> tuple[Payment, Attempt]:
        return await self.paid(capture_method=CaptureMethod.MANUAL)

    def capture(self, minor: int, key: str = "capture") -> PendingCommand:
        return PendingCommand(Command.CAPTURE, minor, key, self.clock())

    def refund(self, minor: int, name: str = "r") -> Refund:
        return Refund(
            refund_id=derive("ref", "d1", name),
            amount=Money(minor, self.currency),
            reason=RefundReason.REQUESTED_BY_CUSTOMER,
            status=RefundStatus.PENDING,
            create_time=self.clock(),
            update_time=self.clock(),
        )

    async def settled(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        """Asks about a refund, as recovery would, until it is known how it ended."""
        outcome = RefundOutcome(RefundStatus.UNKNOWN)
        for _ in range(STEPS_MAX):
            outcome = await self.processor.refund(payment, attempt, refund)
            known = outcome.processor_refund_id or refund.processor_refund_id
            refund = replace(refund, processor_refund_id=known)
            if outcome.status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED):
                break
            self.later(seconds=30)
        return outcome


# ---- Stripe


class StripeRail(Rail):
    name = "stripe"
    token, declined_token = "pm_card_visa", "pm_card_chargeDeclinedLostCard"
    waiting_token = "pm_card_threeDSecure2Required"
    paths: ClassVar = {
        "charge": "/v1/payment_intents",
        "capture": "/v1/payment_intents",
        "cancel": "/v1/payment_intents",
        "refund": "/v1/refunds",
    }
    sandbox: StripeSandbox

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self.sandbox = await stack.enter_async_context(stripe_sandbox(folder))
        self.clock = FakeClock(datetime.fromtimestamp(self.sandbox.clock(), UTC))
        processor = self.at(self.sandbox.stripe_url)
        stack.push_async_callback(processor.close)
        self.processor = processor

    def at(self, url: str) -> StripeProcessor:
        return StripeProcessor({ACCOUNT: "sk_test_first"}, url, RETURN_URL, 5.0, self.clock)

    def lose(self, verb: str) -> None:
        rule = {"kind": "drop_after_commit", "times": 1, "path_prefix": self.paths[verb]}
        self.sandbox.simulator.set_faults([{**rule, "method": "POST"}])

    async def act(self, action: ActionRequired) -> None:
        async with (
            aiohttp.ClientSession() as browser,
            browser.post(f"{action.action.url}/authenticate?outcome=success") as page,
        ):
            assert page.status in (200, 400)

    def taken(self) -> int:
        return sum(c["amount_captured"] for c in self.sandbox.account()["charges"].values())

    def given_back(self) -> int:
        return sum(r["amount"] for r in self.sandbox.account()["refunds"].values())

    def later(self, **duration: float) -> None:
        super().later(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())


# ---- Amazon Pay: with the payer at the page, and by a permission given before


class AmazonPayRail(Rail):
    name = "amazon_pay"
    token = waiting_token = declined_token = "checkout"
    card = "1111"
    paths: ClassVar = {
        "charge": ("POST", "/v2/checkoutSessions"),
        "capture": ("POST", "/v2/charges"),
        "cancel": ("DELETE", "/v2/chargePermissions"),
        "refund": ("POST", "/v2/refunds"),
    }
    sandbox: AmazonPaySandbox

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self.sandbox = await stack.enter_async_context(amazon_pay_sandbox(folder))
        self.clock = FakeClock(datetime.fromtimestamp(self.sandbox.clock(), UTC))
        processor = self.at(self.sandbox.amazon_pay_url)
        stack.push_async_callback(processor.close)
        self.processor = processor

    def at(self, url: str) -> AmazonPayProcessor:
        client = AmazonPayClient({ACCOUNT: account("first")}, url, 5.0, self.clock)
        return AmazonPayProcessor(client, RETURN_URL, self.clock)

    def lose(self, verb: str) -> None:
        method, path = self.paths[verb]
        # A DELETE whose kept connection breaks is sent once more by aiohttp itself.
        times = 2 if method == "DELETE" else 1
        rule = {"kind": "drop_after_commit", "times": times, "path_prefix": path}
        self.sandbox.simulator.set_faults([{**rule, "method": method}])

    def declined(self) -> tuple[Payment, Attempt]:
        self.card = "3434"
        return super().declined()

    async def act(self, action: ActionRequired) -> None:
        assert await self.sandbox.buyer(action.action.url, f"agree?card={self.card}") in (200, 422)

    def taken(self) -> int:
        return sum(c["_captured"] for c in self.sandbox.merchant()["charges"].values())

    def given_back(self) -> int:
        return sum(r["_units"] for r in self.sandbox.merchant()["refunds"].values())

    def later(self, **duration: float) -> None:
        super().later(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())


class AmazonPayPermissionRail(AmazonPayRail):
    waiting_token = ""
    paths: ClassVar = {
        **AmazonPayRail.paths,
        "charge": ("POST", "/v2/charges"),
        "cancel": ("DELETE", "/v2/charges"),
    }

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        await super().open(stack, folder)
        self.token, self.declined_token = (
            self.sandbox.simulator.grant("AFIRST", card)["chargePermissionId"]
            for card in ("1111", "3434")
        )


# ---- Solana: the payer sends, so nobody refuses, holds or stops anything


class SolanaRail(Rail):
    name = "solana"
    holds = calls_to_charge = can_stop_the_payer = limits_refunds = False
    currency = "USDC"
    token = waiting_token = "solana_pay"
    merchant, refunds = (Keypair.from_seed(bytes([n]) * 32) for n in (1, 2))
    sandbox: SolanaSandbox
    followed: set[str]

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self.sandbox = await stack.enter_async_context(solana_sandbox(folder))
        self.followed = set()
        self.clock = FakeClock(datetime.fromtimestamp(self.sandbox.clock(), UTC))
        self.sandbox.fund(str(self.merchant.pubkey()), usdc="1")
        self.sandbox.fund(str(self.refunds.pubkey()), sol="1", usdc="1")
        processor = self.at(self.sandbox.url)
        stack.push_async_callback(processor.close)
        self.processor = processor

    def at(self, url: str) -> SolanaPayProcessor:
        chain = SolanaChain(SolanaRpc(url, timeout_seconds=5.0, connections_max=8))
        accounts = {ACCOUNT: SolanaAccount(str(self.merchant.pubkey()), self.refunds)}
        return SolanaPayProcessor(accounts, chain, USDC_MINT, {"SOL": 0, "USDC": 0}, 600.0)

    def lose(self, verb: str) -> None:
        assert verb == "refund", "nothing else is sent"
        self.sandbox.fail_next("drop_after_commit", "sendTransaction")

    async def act(self, action: ActionRequired) -> None:
        # A payer follows an address once; whoever pays twice gets the second back.
        if action.action.url not in self.followed:
            self.followed.add(action.action.url)
            self.sandbox.pay(action.action.url)

    def taken(self) -> int:
        transfers = self.sandbox.simulator.dump()["transfers"].values()
        return sum(int(t["amount"]) for each in transfers for t in each)

    def given_back(self) -> int:
        refunds = self.sandbox.simulator.dump()["refunds"].values()
        return sum(int(r["amount"]) for r in refunds)

    def later(self, **duration: float) -> None:
        super().later(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())


RAILS: dict[str, type[Rail]] = {
    "solana": SolanaRail,
    "stripe": StripeRail,
    "amazon_pay_checkout": AmazonPayRail,
    "amazon_pay_permission": AmazonPayPermissionRail,
}


@pytest.fixture(params=RAILS)
async def rail(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rail]:
    async with AsyncExitStack() as stack:
        made = RAILS[request.param]()
        await made.open(stack, tmp_path)
        yield made


def rails_that(*conditions: str) -> pytest.MarkDecorator:
    """Picks the rails for which something is possible at all."""
    names = [name for name, kind in RAILS.items() if all(getattr(kind, c) for c in conditions)]
    return pytest.mark.parametrize("rail", names, indirect=True)


# ---- charges ---------------------------------------------------------------------------------


async def test_a_charge_tells_what_was_taken(rail: Rail) -> None:
    payment, attempt = rail.attempt()
    attempt, outcome = await rail.drive(payment, attempt)
    assert isinstance(outcome, Charged)
    assert (outcome.authorized_minor, outcome.captured_minor) == (PRICE, PRICE)
    assert rail.taken() == PRICE


async def test_a_charge_replayed_under_its_key_charges_once(rail: Rail) -> None:
    payment, attempt = rail.attempt()
    first = await rail.processor.charge(payment, attempt)
    assert await rail.processor.charge(payment, attempt) == first
    await rail.drive(payment, attempt)
    await rail.drive(payment, attempt)
    assert rail.taken() == PRICE


async def test_charges_that_race_under_one_key_charge_once(rail: Rail) -> None:
    payment, attempt = rail.attempt()
    await asyncio.gather(*(rail.processor.charge(payment, attempt) for _ in range(8)))
    await asyncio.gather(*(rail.drive(payment, attempt) for _ in range(4)))
    assert rail.taken() == PRICE


@rails_that("calls_to_charge")
async def test_a_lost_answer_is_not_known_and_a_later_replay_finds_the_truth(rail: Rail) -> None:
    payment, attempt = rail.attempt()
    rail.lose("charge")
    assert isinstance(await rail.processor.charge(payment, attempt), NotKnown)
    _, outcome = await rail.drive(payment, attempt)
    assert isinstance(outcome, Charged)
    assert rail.taken() == PRICE


@rails_that("declined_token")
async def test_a_decline_is_a_decline_each_time_and_takes_nothing(rail: Rail) -> None:
    payment, attempt = rail.declined()
    named, outcome = await rail.drive(payment, attempt)
    assert isinstance(outcome, Declined)
    assert outcome.code
    for _ in range(2):
        _, again = await rail.drive(payment, named)
        assert again == outcome
    assert rail.taken() == 0


async def test_looking_changes_nothing(rail: Rail) -> None:
    payment, attempt = await rail.paid()
    looks = [await rail.processor.look(payment, attempt) for _ in range(3)]
    assert looks[0] == looks[1] == looks[2]
    assert isinstance(looks[0], Charged)
    assert rail.taken() == PRICE


# ---- capture ---------------------------------------------------------------------------------


@rails_that("holds")
async def test_held_money_is_not_taken_before_its_capture(rail: Rail) -> None:
    payment, attempt = await rail.held()
    outcome = await rail.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert (outcome.authorized_minor, outcome.captured_minor) == (PRICE, 0)
    assert rail.taken() == 0


@rails_that("holds")
async def test_at_most_what_was_authorized_is_captured(rail: Rail) -> None:
    payment, attempt = await rail.held()
    refused = await rail.processor.capture(payment, attempt, rail.capture(PRICE + 1))
    assert isinstance(refused, Declined)
    assert rail.taken() == 0


@rails_that("holds")
async def test_a_capture_replayed_under_its_key_captures_once(rail: Rail) -> None:
    payment, attempt = await rail.held()
    for _ in range(2):
        taken = await rail.processor.capture(payment, attempt, rail.capture(1500))
        assert isinstance(taken, Charged)
        assert taken.captured_minor == 1500
    another = await rail.processor.capture(payment, attempt, rail.capture(400, "another"))
    assert isinstance(another, Declined), "the rest was released"
    assert rail.taken() == 1500


@rails_that("holds")
async def test_a_capture_whose_answer_is_lost_is_captured_once(rail: Rail) -> None:
    payment, attempt = await rail.held()
    rail.lose("capture")
    first = await rail.processor.capture(payment, attempt, rail.capture(1500))
    assert isinstance(first, NotKnown | Charged)
    taken = await rail.processor.capture(payment, attempt, rail.capture(1500))
    assert isinstance(taken, Charged)
    assert taken.captured_minor == rail.taken() == 1500


# ---- cancel ----------------------------------------------------------------------------------


@rails_that("holds")
async def test_a_canceled_charge_can_never_be_captured(rail: Rail) -> None:
    payment, attempt = await rail.held()
    for _ in range(2):
        assert isinstance(await rail.processor.cancel(payment, attempt, "key"), Canceled)
    assert isinstance(await rail.processor.capture(payment, attempt, rail.capture(PRICE)), Declined)
    assert isinstance(await rail.processor.look(payment, attempt), Canceled)
    assert rail.taken() == 0


@rails_that("holds")
async def test_a_cancel_whose_answer_is_lost_is_not_known_and_then_a_fence(rail: Rail) -> None:
    payment, attempt = await rail.held()
    rail.lose("cancel")
    assert isinstance(await rail.processor.cancel(payment, attempt, "key"), NotKnown)
    assert isinstance(await rail.processor.cancel(payment, attempt, "key"), Canceled)
    assert rail.taken() == 0


@rails_that("waiting_token", "can_stop_the_payer")
async def test_a_payer_who_acts_after_the_cancel_is_not_charged(rail: Rail) -> None:
    payment, attempt = rail.attempt(rail.waiting_token)
    asked = await rail.processor.charge(payment, attempt)
    assert isinstance(asked, ActionRequired)
    attempt = replace(attempt, processor_payment_id=asked.processor_payment_id)
    assert isinstance(await rail.processor.cancel(payment, attempt, "key"), Canceled)
    await rail.act(asked)
    assert isinstance(await rail.processor.look(payment, attempt), Canceled)
    assert rail.taken() == 0


@rails_that("waiting_token")
async def test_nothing_is_taken_before_the_payer_acts(rail: Rail) -> None:
    payment, attempt = rail.attempt(rail.waiting_token)
    asked = await rail.processor.charge(payment, attempt)
    assert isinstance(asked, ActionRequired)
    attempt = replace(attempt, processor_payment_id=asked.processor_payment_id)
    assert await rail.processor.look(payment, attempt) == asked, "no news is the same news"
    assert rail.taken() == 0


async def test_what_was_taken_is_not_canceled_away(rail: Rail) -> None:
    payment, attempt = await rail.paid()
    refused = await rail.processor.cancel(payment, attempt, "key")
    assert isinstance(refused, Declined)
    assert isinstance(await rail.processor.look(payment, attempt), Charged)
    assert rail.taken() == PRICE


# ---- refunds ---------------------------------------------------------------------------------


async def test_a_refund_replayed_gives_back_once(rail: Rail) -> None:
    payment, attempt = await rail.paid()
    refund = rail.refund(500)
    first = await rail.processor.refund(payment, attempt, refund)
    assert await rail.processor.refund(payment, attempt, refund) == first
    ended = await rail.settled(payment, attempt, refund)
    assert ended.status is RefundStatus.SUCCEEDED
    assert rail.given_back() == 500


async def test_a_refund_whose_answer_is_lost_gives_back_once(rail: Rail) -> None:
    payment, attempt = await rail.paid()
    rail.lose("refund")
    refund = rail.refund(500)
    lost = await rail.processor.refund(payment, attempt, refund)
    assert lost.status is RefundStatus.UNKNOWN
    ended = await rail.settled(payment, attempt, refund)
    assert ended.status is RefundStatus.SUCCEEDED
    assert rail.given_back() == 500


@rails_that("limits_refunds")
async def test_all_refunds_together_give_back_at_most_what_was_taken(rail: Rail) -> None:
    payment, attempt = await rail.paid()
    ends = [
        (await rail.settled(payment, attempt, rail.refund(minor, name))).status
        for name, minor in (("a", 1500), ("b", 500), ("c", 499))
    ]
    assert ends == [RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.SUCCEEDED]
    assert rail.given_back() == PRICE


# ---- nobody answers, or somebody else does ---------------------------------------------------


async def every_verb(
    rail: Rail, processor: Processor, payment: Payment, attempt: Attempt
) -> list[Outcome]:
    """Asks everything a rail can be asked; none of it may raise."""
    unnamed = replace(attempt, processor_payment_id="")
    outcomes = [
        await processor.charge(payment, unnamed),
        await processor.look(payment, attempt),
        await processor.cancel(payment, attempt, "key"),
    ]
    if rail.holds:
        outcomes.append(await processor.capture(payment, attempt, rail.capture(500)))
    refund = await processor.refund(payment, attempt, rail.refund(500))
    assert refund.status in (RefundStatus.UNKNOWN, RefundStatus.PENDING)
    await processor.standing(payment, attempt)
    return outcomes


async def test_a_silent_vendor_proves_nothing(rail: Rail) -> None:
    payment, attempt = await rail.paid()
    processor = rail.at(CLOSED_PORT)
    outcomes = await every_verb(rail, processor, payment, attempt)
    assert not [o for o in outcomes if isinstance(o, Charged | Declined | Canceled)]
    await processor.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 422 Odd\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}",
        b"",
    ],
    ids=[
        *("cut body", "garbage", "list", "empty object", "redirect"),
        *("proxy's 403", "proxy's 404", "reasonless 422", "bad gateway", "silence"),
    ],
)
async def test_an_answer_that_is_not_the_vendors_proves_nothing(rail: Rail, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    payment, attempt = await rail.paid()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    processor = rail.at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    outcomes = await every_verb(rail, processor, payment, attempt)
    assert not [o for o in outcomes if isinstance(o, Charged | Declined | Canceled)], outcomes
    await processor.close()
    server.close()
    await server.wait_closed()
