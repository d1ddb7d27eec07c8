"""The Solana rail against the sandbox's chain and the wallets on it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from smartpay_chassis.ids import derive
from smartpay_chassis.testing import FakeClock
from smartpay_payments.adapters import solana_pay_chain
from smartpay_payments.adapters.solana_pay_chain import SolanaChain, SolanaRpc
from smartpay_payments.adapters.solana_pay_processor import (
    DUST_TRANSFERS_MAX,
    SolanaAccount,
    SolanaPayProcessor,
)
from smartpay_payments.adapters.solana_pay_refunds import UNFUNDED, UNUSABLE, SolanaRefunds
from smartpay_payments.domain.payment import (
    ActionKind,
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
    Transfer,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    Standing,
    TransferRail,
)
from smartpay_sandbox.solana_testing import SolanaSandbox, solana_sandbox
from smartpay_sandbox.solana_wallets import USDC_MINT

ACCOUNT = derive("pac", "d1", "solana")
MERCHANT, REFUNDS = (Keypair.from_seed(bytes([n]) * 32) for n in (1, 2))
ASKED = 1_500_000
DUST = {"USDC": 1_000, "SOL": 1_000_000}
HISTORY, READ, SEND = "getSignaturesForAddress", "getTransaction", "sendTransaction"


@dataclass
class Counter:
    """One merchant's account on the rail, its chain, and payers."""

    sandbox: SolanaSandbox
    processor: SolanaPayProcessor
    clock: FakeClock

    def attempt(self, units: int = ASKED, currency: str = "USDC") -> tuple[Payment, Attempt]:
        order = Order(
            amount=Money(units, currency),
            tokens={ACCOUNT: "solana_pay"},
            fingerprint="",
            capture_method=CaptureMethod.AUTOMATIC,
            statement_descriptor="BAKERY",
            description="two rolls & coffee",
        )
        payment = Payment(
            payment_id=derive("pay", "d1", "key"),
            merchant_id="mer_d1" + "m" * 24,
            livemode=False,
            order=order,
            request_hash="",
            status=Status.PROCESSING,
            create_time=self.clock(),
            update_time=self.clock(),
        )
        attempt = Attempt(
            attempt_index=0,
            processor_account_id=ACCOUNT,
            processor="solana",
            processor_key=f"{payment.payment_id}-0",
            request_body=self.processor.prepare(payment, ACCOUNT, 0),
            status=AttemptStatus.STARTED,
            start_time=self.clock(),
        )
        return payment, attempt

    async def url(self, payment: Payment, attempt: Attempt) -> str:
        asked = await self.processor.charge(payment, attempt)
        assert isinstance(asked, ActionRequired)
        return asked.action.url

    async def paid(self, *ways: dict[str, Any], **order: Any) -> tuple[Payment, Attempt]:
        """A payment on which people did these things, all of them final."""
        payment, attempt = self.attempt(**order)
        url = await self.url(payment, attempt)
        for way in ways:
            self.sandbox.pay(url, **way)
            self.sandbox.pass_slots()
        return payment, attempt

    async def booked(self, *ways: dict[str, Any], **order: Any) -> tuple[Payment, Attempt]:
        """The same, with the transfers stored as the saga does it."""
        payment, attempt = await self.paid(*ways, **order)
        transfers = await self.processor.transfers(payment, attempt)
        assert transfers
        return payment, replace(attempt, transfers=tuple(transfers))

    def refund(self, units: int, currency: str = "USDC", transfer_id: str = "") -> Refund:
        return Refund(
            refund_id=derive("ref", "d1", str(units)),
            amount=Money(units, currency),
            reason=RefundReason.OVERPAYMENT,
            status=RefundStatus.PENDING,
            create_time=self.clock(),
            update_time=self.clock(),
            transfer_id=transfer_id,
        )

    def given_back(self) -> list[tuple[str, str]]:
        """What the chain itself says was refunded: (payee, amount)."""
        return [
            (r["payee"], r["amount"]) for r in self.sandbox.simulator.dump()["refunds"].values()
        ]


def processor_of(url: str, key: Keypair = REFUNDS, genesis_hash: str = "") -> SolanaPayProcessor:
    rpc = SolanaRpc(url, timeout_seconds=5, connections_max=4)
    accounts = {ACCOUNT: SolanaAccount(str(MERCHANT.pubkey()), key)}
    return SolanaPayProcessor(accounts, SolanaChain(rpc, genesis_hash), USDC_MINT, DUST, 600)


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with solana_sandbox(tmp_path) as sandbox:
        sandbox.fund(str(MERCHANT.pubkey()), sol="1", usdc="1")
        sandbox.fund(str(REFUNDS.pubkey()), sol="10", usdc="1000")
        processor = processor_of(sandbox.url)
        yield Counter(sandbox, processor, FakeClock())
        await processor.close()


def minor(transfers: tuple[Transfer, ...]) -> list[int]:
    return [t.minor_units for t in transfers]


# ---- asking ------------------------------------------------------------------------------------


async def test_a_charge_calls_nobody_and_shows_the_same_address_each_time(
    counter: Counter,
) -> None:
    payment, attempt = counter.attempt()
    counter.sandbox.simulator.set_faults([{"kind": "error_before", "method": "*"}])
    first = await counter.processor.charge(payment, attempt)
    assert first == await counter.processor.charge(payment, attempt)
    assert isinstance(first, ActionRequired)
    assert first.action.kind is ActionKind.SOLANA_PAY
    reference = first.processor_payment_id
    assert first.action.url == (
        f"solana:{MERCHANT.pubkey()}?amount=1.5&spl-token={USDC_MINT}&reference={reference}"
        "&label=BAKERY&message=two%20rolls%20%26%20coffee"
    )


def test_every_attempt_has_a_reference_of_its_own(counter: Counter) -> None:
    bodies = {counter.attempt()[1].request_body for _ in range(20)}
    assert len(bodies) == 20


def test_it_is_a_rail_where_the_payer_sends(counter: Counter) -> None:
    assert isinstance(counter.processor, TransferRail)
    assert counter.processor.late_seconds == 600
    assert counter.processor.dust_minor("SOL") == 1_000_000


async def test_nothing_can_be_captured_and_nothing_else_becomes_of_it(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    pending = PendingCommand(Command.CAPTURE, ASKED, "key", counter.clock())
    refused = await counter.processor.capture(payment, attempt, pending)
    assert refused == Declined("capture_not_possible", soft=False)
    assert await counter.processor.standing(payment, attempt) == Standing()


# ---- what comes in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("currency", "units"), [("USDC", ASKED), ("SOL", 250_000_000), ("USDC", 1), ("SOL", 890_881)]
)
async def test_an_exact_payment_is_charged(counter: Counter, currency: str, units: int) -> None:
    payment, attempt = await counter.paid({}, units=units, currency=currency)
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert (outcome.authorized_minor, outcome.captured_minor, outcome.fee_minor) == (
        units,
        units,
        0,
    )
    assert minor(outcome.transfers) == [units]
    payer = outcome.transfers[0].payer
    told = counter.sandbox.simulator.dump()["transfers"][outcome.processor_payment_id]
    assert [(t["payer"], t["amount"]) for t in told] == [(payer, str(units))]


async def test_a_payment_counts_only_once_it_is_final(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    counter.sandbox.pay(await counter.url(payment, attempt))
    counter.sandbox.pass_slots(1)
    waiting = await counter.processor.look(payment, attempt)
    assert isinstance(waiting, ActionRequired)
    assert waiting.transfers == ()
    counter.sandbox.pass_slots(1)
    assert isinstance(await counter.processor.look(payment, attempt), Charged)


async def test_too_little_asks_for_the_rest_under_the_same_reference(counter: Counter) -> None:
    payment, attempt = await counter.paid({"amount": "0.4"})
    asked = await counter.processor.look(payment, attempt)
    assert isinstance(asked, ActionRequired)
    assert minor(asked.transfers) == [400_000]
    assert "amount=1.1&" in asked.action.url
    assert f"reference={asked.processor_payment_id}" in asked.action.url
    counter.sandbox.pay(asked.action.url, payer="a friend")
    counter.sandbox.pass_slots()
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert minor(outcome.transfers) == [400_000, 1_100_000]
    assert len({t.payer for t in outcome.transfers}) == 2


async def test_too_much_is_charged_as_asked_and_shows_all_that_came(counter: Counter) -> None:
    payment, attempt = await counter.paid({"amount": "2"})
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert outcome.captured_minor == ASKED
    assert minor(outcome.transfers) == [2_000_000]


async def test_two_payments_to_one_reference_both_show(counter: Counter) -> None:
    payment, attempt = await counter.paid({}, {"payer": "somebody else"})
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert outcome.captured_minor == ASKED
    assert minor(outcome.transfers) == [ASKED, ASKED]


async def test_dust_before_the_payment_hides_nothing_and_is_counted(counter: Counter) -> None:
    payment, attempt = await counter.paid({"amount": "0.000001"}, {})
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert minor(outcome.transfers) == [1, ASKED]


async def test_a_flood_of_dust_fills_no_record(counter: Counter) -> None:
    flood = [{"amount": "0.000001"}] * (DUST_TRANSFERS_MAX + 5)
    payment, attempt = await counter.paid(*flood, {})
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert minor(outcome.transfers) == [1] * DUST_TRANSFERS_MAX + [ASKED]
    again = await counter.processor.look(payment, replace(attempt, transfers=outcome.transfers))
    assert isinstance(again, Charged)
    assert again.transfers == outcome.transfers


@pytest.mark.parametrize(
    "way",
    [
        {"mint": "LOOKALIKE"},
        {"mint": "SOL"},
        {"recipient": str(Pubkey(bytes([9]) * 32)), "mint": "LOOKALIKE"},
        {"references": []},
        {"fails": True},
    ],
    ids=["wrong mint", "SOL", "wrong recipient", "no reference", "failed transaction"],
)
async def test_what_is_not_the_asked_transfer_counts_for_nothing(
    counter: Counter, way: dict[str, Any]
) -> None:
    payment, attempt = await counter.paid(way)
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, ActionRequired)
    assert outcome.transfers == ()


async def test_usdc_to_another_recipient_counts_for_nothing(counter: Counter) -> None:
    stranger = str(Keypair.from_seed(bytes([7]) * 32).pubkey())
    counter.sandbox.fund(stranger, usdc="1")
    payment, attempt = await counter.paid({"recipient": stranger})
    assert isinstance(await counter.processor.look(payment, attempt), ActionRequired)


async def test_a_transfer_with_two_references_pays_only_the_first(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    other_payment, other = counter.attempt()
    first = json.loads(attempt.request_body)["reference"]
    second = json.loads(other.request_body)["reference"]
    counter.sandbox.pay(await counter.url(payment, attempt), extra_references=[second])
    counter.sandbox.pass_slots()
    assert isinstance(await counter.processor.look(payment, attempt), Charged)
    unpaid = await counter.processor.look(other_payment, other)
    assert isinstance(unpaid, ActionRequired)
    assert unpaid.transfers == ()
    assert list(counter.sandbox.simulator.dump()["transfers"]) == [first]


async def test_old_wallets_messages_count_as_well(counter: Counter) -> None:
    payment, attempt = await counter.paid({"legacy": True})
    assert isinstance(await counter.processor.look(payment, attempt), Charged)


# ---- reading in pieces, and nodes that fail -----------------------------------------------------


async def test_a_long_history_is_read_page_by_page_and_nothing_twice(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solana_pay_chain, "HISTORY_PAGE", 2)
    payment, attempt = await counter.paid(*[{"amount": "0.3"}] * 5)
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, Charged)
    assert minor(outcome.transfers) == [300_000] * 5


async def test_a_flood_is_read_on_in_later_looks(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solana_pay_chain, "READS_PER_LOOK_MAX", 2)
    payment, attempt = await counter.paid(*[{"amount": "0.3"}] * 5)
    looks = [await counter.processor.look(payment, attempt) for _ in range(3)]
    assert [isinstance(each, NotKnown) for each in looks] == [True, True, False]
    assert isinstance(looks[-1], Charged)


async def test_a_history_without_end_is_left_to_a_person(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solana_pay_chain, "HISTORY_PAGE", 1)
    monkeypatch.setattr(solana_pay_chain, "HISTORY_PAGES_MAX", 2)
    payment, attempt = await counter.paid(*[{"amount": "0.3"}] * 3)
    outcome = await counter.processor.look(payment, attempt)
    assert outcome == NotKnown("history_too_long", outcome.processor_payment_id)  # type: ignore[union-attr]


async def test_what_is_final_is_fetched_once(counter: Counter) -> None:
    payment, attempt = await counter.paid({})
    assert isinstance(await counter.processor.look(payment, attempt), Charged)
    counter.sandbox.simulator.set_faults([{"kind": "error_before", "method": READ}])
    assert isinstance(await counter.processor.look(payment, attempt), Charged)


@pytest.mark.parametrize("method", ["getGenesisHash", HISTORY, READ])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("error_before", "no_answer"),
        ("drop_after_commit", "no_answer"),
        ("rate_limit", "no_answer"),
        ("node_behind", "rpc_error_-32005"),
    ],
)
async def test_a_node_that_fails_proves_nothing(
    counter: Counter, method: str, kind: str, why: str
) -> None:
    payment, attempt = await counter.paid({})
    counter.sandbox.fail_next(kind, method, times=3)
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, NotKnown)
    assert outcome.why == why
    assert await counter.processor.transfers(payment, attempt) is None
    canceled = await counter.processor.cancel(payment, attempt, "key")
    assert isinstance(canceled, NotKnown)
    assert isinstance(await counter.processor.look(payment, attempt), Charged)


async def test_a_node_that_names_a_transaction_and_cannot_show_it_lags(counter: Counter) -> None:
    payment, attempt = await counter.paid({})
    counter.sandbox.fail_next("stale_reads", READ)
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, NotKnown)
    assert outcome.why == "history_lags"


async def test_what_is_booked_stays_even_when_a_node_forgets_it(counter: Counter) -> None:
    payment, attempt = await counter.booked({"amount": "1"})
    counter.sandbox.fail_next("stale_reads", HISTORY)
    outcome = await counter.processor.look(payment, attempt)
    assert isinstance(outcome, ActionRequired)
    assert minor(outcome.transfers) == [1_000_000]


async def test_another_chain_is_never_believed(counter: Counter) -> None:
    payment, attempt = await counter.paid({})
    elsewhere = processor_of(counter.sandbox.url, genesis_hash=str(Pubkey(bytes(32))))
    try:
        outcome = await elsewhere.look(payment, attempt)
        assert isinstance(outcome, NotKnown)
        assert outcome.why == "wrong_chain"
        refund = await elsewhere.refund(
            payment, replace(attempt, transfers=(Transfer("x", 5, str(MERCHANT.pubkey())),)),
            counter.refund(5),
        )  # fmt: skip
        assert refund.status is RefundStatus.UNKNOWN
    finally:
        await elsewhere.close()
    assert counter.given_back() == []


async def test_an_attempt_remembers_its_chain(counter: Counter, tmp_path: Path) -> None:
    await counter.processor.look(*counter.attempt())
    payment, attempt = counter.attempt()
    (tmp_path / "another").mkdir()
    async with solana_sandbox(tmp_path / "another") as another:
        elsewhere = processor_of(another.url)
        outcome = await elsewhere.look(payment, attempt)
        await elsewhere.close()
    assert isinstance(outcome, NotKnown)
    assert outcome.why == "wrong_chain"


# ---- giving up ---------------------------------------------------------------------------------


async def test_an_unpaid_request_is_canceled_with_what_came(counter: Counter) -> None:
    payment, attempt = await counter.paid({"amount": "0.4"})
    outcome = await counter.processor.cancel(payment, attempt, "key")
    assert isinstance(outcome, Canceled)
    assert minor(outcome.transfers) == [400_000]


async def test_a_paid_request_is_not_canceled(counter: Counter) -> None:
    payment, attempt = await counter.paid({})
    refused = await counter.processor.cancel(payment, attempt, "key")
    assert refused == Declined("already_paid", soft=False)


async def test_a_transfer_after_the_end_is_found(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    url = await counter.url(payment, attempt)
    assert isinstance(await counter.processor.cancel(payment, attempt, "key"), Canceled)
    assert await counter.processor.transfers(payment, attempt) == ()
    counter.sandbox.pay(url)
    counter.sandbox.pass_slots()
    late = await counter.processor.transfers(payment, attempt)
    assert late is not None
    assert minor(tuple(late)) == [ASKED]


# ---- giving back -------------------------------------------------------------------------------


@pytest.mark.parametrize(("currency", "units"), [("USDC", 300_000), ("SOL", 5_000_000)])
async def test_a_refund_goes_to_who_paid_and_is_done_once_final(
    counter: Counter, currency: str, units: int
) -> None:
    payment, attempt = await counter.booked({}, units=10 * units, currency=currency)
    refund = counter.refund(units, currency)
    first = await counter.processor.refund(payment, attempt, refund)
    assert first.status is RefundStatus.PENDING
    refund = replace(refund, processor_refund_id=first.processor_refund_id)
    assert (await counter.processor.refund(payment, attempt, refund)) == first
    counter.sandbox.pass_slots()
    done = await counter.processor.refund(payment, attempt, refund)
    assert (done.status, done.processor_refund_id) == (
        RefundStatus.SUCCEEDED,
        first.processor_refund_id,
    )
    assert counter.given_back() == [(attempt.transfers[0].payer, str(units))]
    assert list(counter.sandbox.simulator.dump()["refunds"]) == [first.processor_refund_id]


async def test_a_refund_of_one_transfer_goes_to_its_sender(counter: Counter) -> None:
    payment, attempt = await counter.booked({}, {"payer": "twice"})
    late = attempt.transfers[1]
    await counter.processor.refund(
        payment, attempt, counter.refund(ASKED, transfer_id=late.transfer_id)
    )
    assert counter.given_back() == [(late.payer, str(ASKED))]


async def test_a_refund_of_an_unknown_transfer_is_refused(counter: Counter) -> None:
    payment, attempt = await counter.booked({})
    outcome = await counter.processor.refund(
        payment, attempt, counter.refund(5, transfer_id="another")
    )
    assert (outcome.status, outcome.failure_code) == (RefundStatus.FAILED, "no_transfer")


@pytest.mark.parametrize("currency", ["USDC", "SOL"])
@pytest.mark.parametrize("kind", ["drop_after_commit", "error_after", "error_before"])
async def test_a_refund_sent_five_times_with_crashes_between_pays_once(
    counter: Counter, currency: str, kind: str
) -> None:
    payment, attempt = await counter.booked({}, units=50_000_000, currency=currency)
    refund = counter.refund(40_000_000, currency)
    for _ in range(5):
        # A crash forgets everything but what was stored before the first call.
        counter.sandbox.fail_next(kind, SEND)
        fresh = processor_of(counter.sandbox.url)
        outcome = await fresh.refund(payment, attempt, refund)
        await fresh.close()
        assert outcome.status in {RefundStatus.UNKNOWN, RefundStatus.PENDING}
    # The blockhash of whatever was sent is dead by then.
    counter.sandbox.pass_slots(200)
    counter.sandbox.simulator.clear_faults()
    for _ in range(2):
        outcome = await counter.processor.refund(payment, attempt, refund)
        counter.sandbox.pass_slots()
    assert outcome.status is RefundStatus.SUCCEEDED
    assert counter.given_back() == [(attempt.transfers[0].payer, "40000000")]


async def test_two_processes_that_refund_at_once_pay_once(counter: Counter) -> None:
    payment, attempt = await counter.booked({})
    refund = counter.refund(700_000)
    # Neither sees the other's mark, so both send.
    counter.sandbox.simulator.set_faults([{"kind": "stale_reads", "method": "getAccountInfo"}])
    for _ in range(3):
        counter.sandbox.pass_slots(1)
        outcome = await counter.processor.refund(payment, attempt, refund)
        assert outcome.status is RefundStatus.PENDING
    assert len(counter.given_back()) == 1


async def test_an_empty_refund_wallet_is_waited_for(tmp_path: Path) -> None:
    async with solana_sandbox(tmp_path) as sandbox:
        sandbox.fund(str(MERCHANT.pubkey()), sol="1", usdc="1")
        processor = processor_of(sandbox.url)
        counter = Counter(sandbox, processor, FakeClock())
        payment, attempt = await counter.booked({})
        for funds in ({}, {"sol": "0.0009"}, {"sol": "1"}, {"sol": "1", "usdc": "0.1"}):
            sandbox.fund(str(REFUNDS.pubkey()), **funds)
            sandbox.pass_slots()
            outcome = await processor.refund(payment, attempt, counter.refund(700_000))
            assert (outcome.status, outcome.failure_code) == (RefundStatus.PENDING, UNFUNDED), funds
        sandbox.fund(str(REFUNDS.pubkey()), sol="1", usdc="2")
        outcome = await processor.refund(payment, attempt, counter.refund(700_000))
        assert (outcome.status, outcome.failure_code) == (RefundStatus.PENDING, "")
        assert len(counter.given_back()) == 1
        await processor.close()


async def test_a_refund_that_the_payer_s_account_cannot_hold_fails_for_good(
    counter: Counter,
) -> None:
    payment, attempt = await counter.booked({}, units=50_000_000, currency="SOL")
    nobody = replace(attempt.transfers[0], payer=str(Keypair.from_seed(bytes([8]) * 32).pubkey()))
    attempt = replace(attempt, transfers=(nobody,))
    # An account that isn't there can't begin with less than its rent.
    refund = counter.refund(5, "SOL")
    first = await counter.processor.refund(payment, attempt, refund)
    assert (first.status, first.failure_code) == (RefundStatus.PENDING, UNUSABLE)
    counter.sandbox.pass_slots()
    last = await counter.processor.refund(payment, attempt, refund)
    assert (last.status, last.failure_code) == (RefundStatus.FAILED, UNUSABLE)
    counter.sandbox.fund(nobody.payer, sol="1")
    assert (await counter.processor.refund(payment, attempt, refund)) == last
    assert counter.given_back() == []


async def test_a_mark_made_by_a_stranger_is_no_refund(counter: Counter) -> None:
    payment, attempt = await counter.booked({})
    refund = counter.refund(5)
    mark = SolanaRefunds(counter.processor._chain, REFUNDS).mark(refund.refund_id)
    counter.sandbox.fund(mark, sol="1")
    counter.sandbox.pass_slots()
    outcome = await counter.processor.refund(payment, attempt, refund)
    assert outcome.status is RefundStatus.UNKNOWN


async def test_another_refund_key_never_pays_an_open_refund_again(counter: Counter) -> None:
    payment, attempt = await counter.booked({})
    refund = counter.refund(5)
    first = await counter.processor.refund(payment, attempt, refund)
    refund = replace(refund, processor_refund_id=first.processor_refund_id)
    renewed = processor_of(counter.sandbox.url, MERCHANT)
    outcome = await renewed.refund(payment, attempt, refund)
    await renewed.close()
    assert outcome.status is RefundStatus.UNKNOWN
    assert len(counter.given_back()) == 1
