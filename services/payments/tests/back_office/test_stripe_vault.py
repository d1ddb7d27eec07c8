"""Saved cards by the unmodified SDK against the sandbox that speaks Stripe's wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from smartpay_chassis.testing import DEMO_ACCOUNTS, FakeClock
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.adapters.stripe_vault import StripeVault
from smartpay_payments.domain.instruments import SavedToken, SetupOutcome, TokenStatus, token_after
from smartpay_payments.domain.payment import (
    Attempt,
    AttemptStatus,
    CaptureMethod,
    Money,
    Order,
    Payment,
    Status,
)
from smartpay_payments.domain.processor import Charged, Declined
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

FIRST, _ = DEMO_ACCOUNTS
REFERENCE = "cus_d1" + "a" * 24


@dataclass
class Counter:
    """One Stripe account with its vault, and what the sandbox holds."""

    sandbox: StripeSandbox
    processor: StripeProcessor
    vault: StripeVault
    payer: str = ""

    async def set_up(
        self, token: str, key: str = "k", *, off_session: bool = True
    ) -> tuple[SavedToken, SetupOutcome]:
        saved = SavedToken(FIRST, "stripe", token)
        outcome = await self.vault.set_up(saved, self.payer, key, off_session=off_session)
        return token_after(saved, outcome), outcome

    def break_next(self, kind: str, path: str, method: str = "POST") -> None:
        rule = {"kind": kind, "times": 1, "path_prefix": path, "method": method}
        self.sandbox.simulator.set_faults([rule])

    async def card(self, token: str) -> str:
        made = await self.sandbox.client().v1.payment_methods.create_async(
            {"type": "card", "card": {"token": token}}
        )
        return str(made.id)

    async def charge(self, token: str, number: int, payer: str, *, away: bool) -> Any:
        now = FakeClock()()
        order = Order(
            Money(1999, "USD"),
            {FIRST: token},
            "",
            CaptureMethod.AUTOMATIC,
            off_session=away,
            payers={FIRST: payer} if payer else {},
        )
        payment = Payment(f"pay_{number}", "mer", False, order, "", Status.PROCESSING, now, now)
        body = self.processor.prepare(payment, FIRST, 0)
        attempt = Attempt(0, FIRST, "stripe", f"key-{number}", body, AttemptStatus.STARTED, now)
        return await self.processor.charge(payment, attempt)


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with stripe_sandbox(tmp_path) as sandbox:
        processor = StripeProcessor(
            {FIRST: "sk_test_first"}, sandbox.stripe_url, "https://shop.test/back", 5.0, FakeClock()
        )
        running = Counter(
            sandbox, processor, StripeVault(processor.clients, "https://shop.test/back")
        )
        running.payer = await running.vault.open_payer(FIRST, REFERENCE)
        yield running
        await processor.close()


async def test_a_payer_is_made_once_and_holds_nothing_but_our_reference(counter: Counter) -> None:
    counter.break_next("drop_after_commit", "/v1/customers")
    assert await counter.vault.open_payer(FIRST, "cus_other") == ""
    again = await counter.vault.open_payer(FIRST, "cus_other")
    assert again not in ("", counter.payer)
    customers = counter.sandbox.account()["customers"]
    assert len(customers) == 2
    assert customers[again]["metadata"] == {"customer": "cus_other"}
    assert {customers[again][name] for name in ("email", "name", "phone")} == {None}


async def test_a_saved_card_is_charged_again_and_again_for_its_payer(counter: Counter) -> None:
    method = await counter.card("tok_visa")
    _, outcome = await counter.set_up(method, off_session=False)
    assert outcome.status is TokenStatus.READY
    for number in range(2):
        charged = await counter.charge(method, number, counter.payer, away=False)
        assert isinstance(charged, Charged)
    assert isinstance(await counter.charge(method, 9, "", away=False), Declined)


async def test_a_card_that_needs_its_payer_is_renewed_once_they_have_passed(
    counter: Counter,
) -> None:
    method = await counter.card("tok_authenticationRequiredOnSetup")
    saved, outcome = await counter.set_up(method)
    assert outcome.status is TokenStatus.REQUIRES_ACTION
    assert outcome.next_action is not None
    assert (await counter.vault.look_at_setup(saved)).status is TokenStatus.REQUIRES_ACTION
    page = f"{outcome.next_action.url}/authenticate?outcome=success"
    async with aiohttp.ClientSession() as browser, browser.post(page) as answer:
        assert answer.status == 200
    assert (await counter.vault.look_at_setup(saved)).status is TokenStatus.READY
    charged = await counter.charge(method, 1, counter.payer, away=True)
    assert isinstance(charged, Charged)


async def test_a_payer_who_fails_is_told_as_a_failure(counter: Counter) -> None:
    saved, outcome = await counter.set_up(await counter.card("tok_authenticationRequired"))
    assert outcome.next_action is not None
    page = f"{outcome.next_action.url}/authenticate?outcome=fail"
    async with aiohttp.ClientSession() as browser, browser.post(page):
        pass
    after = await counter.vault.look_at_setup(saved)
    assert (after.status, after.failure_code) == (
        TokenStatus.FAILED,
        "setup_intent_authentication_failure",
    )


@pytest.mark.parametrize("off_session", [True, False])
async def test_a_declined_card_is_a_no(counter: Counter, off_session: bool) -> None:
    _, outcome = await counter.set_up(
        await counter.card("tok_chargeDeclinedInsufficientFunds"), off_session=off_session
    )
    assert (outcome.status, outcome.failure_code) == (TokenStatus.FAILED, "insufficient_funds")


async def test_a_token_nobody_knows_is_a_no(counter: Counter) -> None:
    _, outcome = await counter.set_up("pm_unknown")
    assert (outcome.status, outcome.failure_code) == (TokenStatus.FAILED, "resource_missing")


@pytest.mark.parametrize("kind", ["drop_after_commit", "error_before", "rate_limit"])
async def test_silence_leaves_it_open_and_the_same_key_ends_it(counter: Counter, kind: str) -> None:
    method = await counter.card("tok_visa")
    counter.break_next(kind, "/v1/setup_intents")
    _, outcome = await counter.set_up(method)
    assert outcome.status is TokenStatus.SETTING_UP
    _, outcome = await counter.set_up(method)
    assert outcome.status is TokenStatus.READY
    assert len(counter.sandbox.account()["setup_intents"]) == 1


async def test_a_set_up_that_can_t_be_read_stays_as_it_was(counter: Counter) -> None:
    saved, before = await counter.set_up(await counter.card("tok_authenticationRequired"))
    counter.break_next("error_before", "/v1/setup_intents", "GET")
    after = await counter.vault.look_at_setup(saved)
    assert (after.status, after.next_action) == (before.status, before.next_action)


async def test_a_detached_card_is_surely_detached(counter: Counter) -> None:
    method = await counter.card("tok_visa")
    saved, _ = await counter.set_up(method)
    counter.break_next("error_before", "/v1/payment_methods")
    assert not await counter.vault.detach(saved)
    assert await counter.vault.detach(saved)
    assert await counter.vault.detach(saved), "again"
    assert await counter.vault.detach(replace(saved, token="pm_unknown"))
    assert counter.sandbox.account()["payment_methods"][method]["customer"] is None


async def test_a_closed_payer_is_surely_gone(counter: Counter) -> None:
    method = await counter.card("tok_visa")
    await counter.set_up(method)
    counter.break_next("error_after", "/v1/customers", "DELETE")
    assert not await counter.vault.close_payer(FIRST, counter.payer)
    assert await counter.vault.close_payer(FIRST, counter.payer), "again"
    assert counter.sandbox.account()["payment_methods"][method]["customer"] is None


async def test_changed_keys_and_new_accounts_count_at_once(counter: Counter) -> None:
    keys = {FIRST: "sk_test_wrong"}
    processor = StripeProcessor(
        keys, counter.sandbox.stripe_url, "https://shop.test/back", 5.0, FakeClock()
    )
    vault = StripeVault(processor.clients, "https://shop.test/back")
    assert await vault.open_payer(FIRST, "cus_a") == ""
    keys[FIRST] = "sk_test_first"
    assert await vault.open_payer(FIRST, "cus_a")
    keys["pac_new"] = "sk_test_second"
    assert await vault.open_payer("pac_new", "cus_a")
    with pytest.raises(KeyError):
        await vault.open_payer("pac_nobody", "cus_a")
    await processor.close()
