"""Which settings and merchants make the rail, and which orders it can take."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from smartpay_chassis.ids import derive
from smartpay_chassis.merchants import Fee, Merchant, Merchants, ProcessorAccount
from smartpay_chassis.refusals import Refusal
from smartpay_chassis.settings import SettingsError
from smartpay_chassis.testing import FakeClock
from smartpay_payments.adapters.account_secrets import AccountSecrets
from smartpay_payments.adapters.solana_pay_processor import SolanaPayProcessor
from smartpay_payments.domain.eligibility import (
    Account,
    MerchantTerms,
    check_tokens,
    eligible_accounts,
)
from smartpay_payments.domain.payment import (
    Attempt,
    AttemptStatus,
    CaptureMethod,
    Initiator,
    Money,
    Order,
    Payment,
    Refund,
    RefundReason,
    RefundStatus,
    Status,
    Transfer,
)
from smartpay_payments.domain.processor import ActionRequired, Declined, Outcome
from smartpay_payments.solana_rail import SolanaSettings, build_solana, solana_accounts

KEY = Keypair.from_seed(bytes(32))
OTHER_KEY = Keypair.from_seed(bytes([1]) * 32)
WALLET = str(Keypair.from_seed(bytes([2]) * 32).pubkey())
ACCOUNT, ADDED, CARD = (derive("pac", "d1", name) for name in ("solana", "added", "card"))
COMPLETE = {
    "SOLANA_RPC_URL": "http://127.0.0.1:1",
    "SOLANA_TREASURY_WALLET": WALLET,
    "SOLANA_REFUND_SECRET_KEY": str(KEY),
}


def settings(**changes: Any) -> SolanaSettings:
    return SolanaSettings(**{**COMPLETE, **changes})


def merchants(
    secret: Path | None = None, livemode: bool = False, currency: str = "USDC"
) -> Merchants:
    account = ProcessorAccount(
        processor_account_id=ACCOUNT,
        processor="solana",
        name="solana",
        fees={currency: Fee(basis_points=0, fixed_minor_units=0)},
        secret_file=secret,
    )
    merchant = Merchant(
        merchant_id=derive("mer", "d1", "m"),
        name="m",
        livemode=livemode,
        processor_accounts=(account,),
    )
    return Merchants(merchants=(merchant,))


def test_an_account_is_paid_on_the_treasury_wallet_unless_it_has_its_own(tmp_path: Path) -> None:
    found = solana_accounts(merchants(), settings())
    assert (found[ACCOUNT].recipient, found[ACCOUNT].refund_key) == (WALLET, KEY)
    secret = tmp_path / "secret"
    own = {"recipient": str(OTHER_KEY.pubkey()), "refund_secret_key": str(list(bytes(OTHER_KEY)))}
    secret.write_text(json.dumps(own))
    found = solana_accounts(merchants(secret), settings())
    assert (found[ACCOUNT].recipient, found[ACCOUNT].refund_key) == (
        str(OTHER_KEY.pubkey()),
        OTHER_KEY,
    )


def test_a_refund_key_is_never_printed() -> None:
    account = solana_accounts(merchants(), settings())[ACCOUNT]
    assert str(KEY) not in repr(account) + repr(settings())


def test_without_a_chain_there_is_no_rail_and_no_account_on_it() -> None:
    nobody, nowhere = Merchants(merchants=()), settings(SOLANA_RPC_URL="")
    assert build_solana(nobody, nowhere, AccountSecrets(Safe())) is None
    with pytest.raises(SettingsError, match="SOLANA_RPC_URL"):
        build_solana(merchants(), nowhere, AccountSecrets(Safe()))


class Safe:
    """A secret store in memory."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def put(self, name: str, text: str) -> None:
        self.texts[name] = text

    async def get(self, name: str) -> str | None:
        return self.texts.get(name)

    async def delete(self, name: str) -> None:
        self.texts.pop(name, None)


@asynccontextmanager
async def opened_rail(secrets: AccountSecrets, **changes: Any) -> AsyncIterator[SolanaPayProcessor]:
    built = build_solana(merchants(), settings(**changes), secrets)
    assert built is not None
    rail, _ = built
    try:
        yield rail
    finally:
        await rail.close()


async def asked_at(
    rail: SolanaPayProcessor, account: str, livemode: bool = False
) -> tuple[Payment, Attempt, Outcome]:
    now = FakeClock()()
    order = replace(ORDER, tokens={account: "solana_pay"})
    payment = Payment(
        "pay", "mer", livemode, order, "", Status.PROCESSING, create_time=now, update_time=now
    )
    body = rail.prepare(payment, account, 0)
    attempt = Attempt(0, account, "solana", "key", body, AttemptStatus.STARTED, start_time=now)
    return payment, attempt, await rail.charge(payment, attempt)


def added(**credentials: str) -> AccountSecrets:
    secrets = AccountSecrets(Safe())
    secrets._processors[ADDED] = "solana"
    secrets._credentials[ADDED] = credentials
    return secrets


async def test_an_account_that_a_merchant_added_is_paid_on_its_own_wallet() -> None:
    wallet = str(OTHER_KEY.pubkey())
    secrets = added(recipient=wallet, refund_secret_key=str(OTHER_KEY))
    async with opened_rail(secrets) as rail:
        assert rail.dust_minor("USDC") == 500_000
        for account, recipient in ((ACCOUNT, WALLET), (ADDED, wallet)):
            _, _, asked = await asked_at(rail, account)
            assert isinstance(asked, ActionRequired)
            assert asked.action.url.startswith(f"solana:{recipient}?")


@pytest.mark.parametrize(
    "credentials",
    [
        {"recipient": WALLET},
        {"recipient": WALLET, "refund_secret_key": "x"},
        {"recipient": "x", "refund_secret_key": str(OTHER_KEY)},
    ],
    ids=["it would refund out of our wallet", "unreadable key", "unreadable wallet"],
)
async def test_an_added_account_without_usable_credentials_asks_nobody_to_pay(
    credentials: dict[str, str],
) -> None:
    async with opened_rail(added(**credentials)) as rail:
        payment, attempt, outcome = await asked_at(rail, ADDED)
        assert outcome == Declined("account_not_usable", soft=True)
        assert await rail.transfers(payment, attempt) == ()


async def test_the_other_mode_s_payments_ask_nobody_to_pay() -> None:
    async with opened_rail(AccountSecrets(Safe())) as rail:
        _, _, outcome = await asked_at(rail, ACCOUNT, livemode=True)
        assert outcome == Declined("account_not_usable", soft=True)


async def test_a_refund_waits_when_its_account_s_key_is_gone() -> None:
    secrets = added(recipient=WALLET, refund_secret_key=str(OTHER_KEY))
    async with opened_rail(secrets) as rail:
        payment, attempt, _ = await asked_at(rail, ADDED)
        attempt = replace(attempt, transfers=(Transfer("t", 9, WALLET),))
        now = FakeClock()()
        refund = Refund(
            "ref", Money(5, "USDC"), RefundReason.DUPLICATE, RefundStatus.PENDING, now, now
        )
        del secrets._credentials[ADDED]
        outcome = await rail.refund(payment, attempt, refund)
        assert outcome.status is RefundStatus.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "table", "told"),
    [
        ({"SOLANA_TREASURY_WALLET": ""}, {}, "SOLANA_TREASURY_WALLET"),
        ({"SOLANA_REFUND_SECRET_KEY": ""}, {}, "SOLANA_REFUND_SECRET_KEY"),
        ({"SOLANA_REFUND_SECRET_KEY": "[1, 2]"}, {}, "refund key"),
        ({"SOLANA_REFUND_SECRET_KEY": '["a"]'}, {}, "refund key"),
        ({}, {"livemode": True}, "PAYMENTS_SOLANA_LIVEMODE"),
        ({}, {"currency": "EUR"}, "EUR"),
    ],
)
def test_an_account_that_cannot_be_served_is_named(
    changes: dict[str, str], table: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as refused:
        solana_accounts(merchants(**table), settings(**changes))
    assert ACCOUNT in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["no JSON", "[]", '{"recipient": 5}', f'{{"recipient": "{WALLET}"}}', None],
    ids=["no JSON", "a list", "a number", "its own wallet and our refund key", "no file"],
)
def test_an_unreadable_secret_is_never_repeated(tmp_path: Path, text: str | None) -> None:
    secret = tmp_path / "secret"
    if text is not None:
        secret.write_text(text)
    with pytest.raises(SettingsError, match=ACCOUNT) as refused:
        solana_accounts(merchants(secret), settings())
    assert "no JSON" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOLANA_TREASURY_WALLET", "treasury"),
        ("PAYMENTS_USDC_MINT_ADDRESS", "usdc"),
        ("PAYMENTS_SOLANA_DUST", '{"USDC": 1}'),
        ("PAYMENTS_SOLANA_DUST", '{"USDC": -1, "SOL": 1}'),
        ("PAYMENTS_SOLANA_TIMEOUT_SECONDS", "0"),
        ("PAYMENTS_SOLANA_LIVEMODE", "true"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        SolanaSettings.from_environment()


# ---- what a payer's own transfer can't do ------------------------------------------------------

TERMS = MerchantTerms(
    accounts=(
        Account(CARD, "stripe", frozenset({"USDC"}), True),
        Account(ACCOUNT, "solana", frozenset({"USDC"}), True),
    ),
    blocks_when_fraud_is_away=False,
    blocks_what_needs_review=False,
)
ORDER = Order(
    amount=Money(5, "USDC"),
    tokens={ACCOUNT: "solana_pay"},
    fingerprint="",
    capture_method=CaptureMethod.AUTOMATIC,
)
IMPOSSIBLE = [
    ({"capture_method": CaptureMethod.MANUAL}, "capture_method"),
    ({"initiator": Initiator.MERCHANT}, "initiator"),
    ({"off_session": True}, "off_session"),
]


def test_a_payer_who_is_there_can_send() -> None:
    check_tokens(ORDER, TERMS)
    assert eligible_accounts(ORDER, TERMS, {"solana"}) == (ACCOUNT,)


@pytest.mark.parametrize(("changes", "field"), IMPOSSIBLE)
def test_what_no_payer_can_send_is_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_tokens(replace(ORDER, **changes), TERMS)
    assert (refused.value.reason, refused.value.field) == ("NO_ELIGIBLE_ACCOUNT", field)


@pytest.mark.parametrize(("changes", "field"), IMPOSSIBLE)
def test_another_rail_of_the_same_order_still_takes_it(changes: dict[str, Any], field: str) -> None:
    order = replace(ORDER, tokens={**ORDER.tokens, CARD: "pm_1"}, **changes)
    check_tokens(order, TERMS)
    assert eligible_accounts(order, TERMS, {"solana", "stripe"}) == (CARD,)


def test_another_token_than_the_constant_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        check_tokens(replace(ORDER, tokens={ACCOUNT: WALLET}), TERMS)
    assert (refused.value.field, refused.value.kind.value) == (
        "instrument.tokens",
        "INVALID_ARGUMENT",
    )
