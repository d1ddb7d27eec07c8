"""Notices of processors: proven, taken once, and believed never."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import stripe
from google.api import httpbody_pb2
from hypothesis import given
from hypothesis import strategies as st

from smartpay.payments.v1 import webhooks_pb2, webhooks_pb2_grpc
from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    OTHER_ACCOUNT,
    OTHER_MERCHANT,
    FakeClock,
    as_service,
    error_info,
    serve_for_test,
)
from smartpay_payments.adapters.sqlite_ledger import time_text
from smartpay_payments.adapters.sqlite_webhooks import SqliteInbox
from smartpay_payments.adapters.stripe_webhooks import TOPICS, StripeNotices
from smartpay_payments.domain.payment import CaptureMethod, Dispute, DisputeStatus, Payment, Status
from smartpay_payments.domain.processor import Standing
from smartpay_payments.domain.webhooks import Fate, Notice, Topic, WebhookAccount, is_news
from smartpay_payments.server.webhooks import WebhooksServicer

FIRST, SECOND = DEMO_ACCOUNTS
OLD, NEW = "whsec_old", "whsec_new"


def an_event(kind: str = "charge.dispute.created", **changes: Any) -> dict[str, Any]:
    """An event as Stripe writes it, as far as anybody reads it."""
    event = {
        "id": "evt_1",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": 1_767_268_800,
        "data": {"object": {"id": "dp_1", "object": "dispute", "payment_intent": "pi_0"}},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
    return {**event, **changes}


def about(payment: Payment, kind: str = "payment_intent.succeeded", **changes: Any) -> Any:
    """An event about a payment's own intent, which carries our id along."""
    subject = {
        "id": payment.last_attempt.processor_payment_id,
        "object": "payment_intent",
        "metadata": {"payment_id": payment.payment_id, "attempt_index": "0"},
    }
    return an_event(kind, data={"object": subject}, **changes)


async def due(story: Any) -> list[str]:
    """Reads which payments recovery would look at now, without looking."""
    now = time_text(story.clock.now)

    def query(connection: Any) -> list[str]:
        rows = connection.execute("SELECT payment_id FROM payment WHERE check_time <= ?", (now,))
        return sorted(row["payment_id"] for row in rows)

    found: list[str] = await story.store.read(query)
    return found


@dataclass
class Accounts:
    """Accounts by id, with secrets that a test may change."""

    known: dict[str, WebhookAccount] = field(default_factory=dict)

    def add(self, account_id: str, merchant: Any, livemode: bool = False) -> None:
        self.known[account_id] = WebhookAccount(
            account_id, "stripe", merchant.merchant_id, livemode, (f"whsec_{account_id}",)
        )

    def have(self, account_id: str, *secrets: str, **changes: Any) -> None:
        self.known[account_id] = replace(self.known[account_id], secrets=secrets, **changes)

    async def find(self, processor: str, processor_account_id: str) -> WebhookAccount | None:
        account = self.known.get(processor_account_id)
        return account if account is not None and account.processor == processor else None


@dataclass
class Door:
    """Where Stripe knocks."""

    story: Any
    stub: webhooks_pb2_grpc.WebhooksServiceAsyncStub
    accounts: Accounts

    async def knock(
        self,
        event: Mapping[str, Any] | bytes,
        *,
        account: str = FIRST,
        secret: str | None = None,
        seconds_ago: float = 0.0,
        processor: str = "stripe",
        header: str | None = None,
        tamper: bytes = b"",
    ) -> str:
        """Sends an event signed by Stripe's own SDK; answers OK or the reason of the refusal."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        if header is None:
            sent = int((self.story.clock.now - timedelta(seconds=seconds_ago)).timestamp())
            header = stripe.WebhookSignature.generate_signature_header(
                body.decode("utf-8", "replace"), secret or f"whsec_{account}", sent
            )
        request = webhooks_pb2.ReceiveWebhookRequest(
            processor=processor,
            processor_account_id=account,
            body=httpbody_pb2.HttpBody(content_type="application/json", data=body + tamper),
        )
        metadata = (*as_service("edge", None), ("stripe-signature", header))
        try:
            await self.stub.ReceiveWebhook(request, metadata=metadata, timeout=5)
        except grpc.aio.AioRpcError as error:
            found = error_info(error)
            return f"{found['code']} {found['reason']}"
        return "OK"

    async def due(self) -> list[str]:
        """Reads which payments recovery would look at now."""
        return await due(self.story)

    async def settled(self, key: str = "key", **changes: Any) -> Payment:
        """Makes a payment and lets some time pass, so that nothing is fresh."""
        payment: Payment = await self.story.create(key, **changes)
        self.story.clock.advance(minutes=1)
        while await self.story.recovery.step():
            pass
        return payment


@pytest.fixture
async def door(story: Any) -> AsyncIterator[Door]:
    accounts = Accounts()
    for account_id in DEMO_ACCOUNTS:
        accounts.add(account_id, DEMO_MERCHANT)
    accounts.add(OTHER_ACCOUNT, OTHER_MERCHANT)
    servicer = WebhooksServicer(
        accounts,
        {"stripe": StripeNotices(story.clock)},
        SqliteInbox(story.store),
        story.clock,
    )
    service = webhooks_pb2.DESCRIPTOR.services_by_name["WebhooksService"]
    async with serve_for_test(
        [(webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server, servicer, service)]
    ) as channel:
        yield Door(story, webhooks_pb2_grpc.WebhooksServiceStub(channel), accounts)


REFUSED = "PERMISSION_DENIED SIGNATURE_REFUSED"


# ---- what a notice does ------------------------------------------------------------------------


async def test_a_notice_makes_its_payment_due_and_is_not_believed(door: Door) -> None:
    door.story.processor.script = ["lost_after"]
    payment = await door.story.create()
    door.story.clock.advance(seconds=3)
    assert payment.status is Status.UNKNOWN
    # It says canceled; the truth is a charge.
    assert await door.knock(about(payment, "payment_intent.canceled")) == "OK"
    assert await door.due() == [payment.payment_id]
    await door.story.recovery.step()
    assert (await door.story.read(payment)).status is Status.SUCCEEDED


async def test_a_dispute_is_found_by_the_intent_it_names(door: Door) -> None:
    payment = await door.settled()
    assert payment.last_attempt.processor_payment_id == "pi_0"
    door.story.processor.became = Standing(
        (
            Dispute(
                dispute_id="dis_d1" + "0" * 24,
                processor_dispute_id="dp_1",
                amount_minor=1999,
                reason="fraudulent",
                status=DisputeStatus.NEEDS_RESPONSE,
                create_time=door.story.clock.now,
                update_time=door.story.clock.now,
            ),
        )
    )
    assert await door.knock(an_event()) == "OK"
    assert await door.due() == [payment.payment_id]
    await door.story.recovery.step()
    assert (await door.story.read(payment)).disputed_minor == 1999


@pytest.mark.parametrize("kind", sorted(TOPICS))
async def test_each_event_stripe_has_for_a_payment_is_found_with_it(door: Door, kind: str) -> None:
    payment = await door.settled(capture_method=CaptureMethod.MANUAL)
    topic = TOPICS[kind]
    subject = {"id": "x_1", "object": kind.split(".")[0], "payment_intent": "pi_0"}
    if subject["object"] == "payment_intent":
        subject = {"id": "pi_0", "object": "payment_intent"}
    assert await door.knock(an_event(kind, data={"object": subject})) == "OK"
    # Fees are told of captured charges only.
    assert (await door.due() == [payment.payment_id]) is (topic is not Topic.FEE)


async def test_what_is_known_already_is_not_asked_again(door: Door) -> None:
    payment = await door.settled()
    for number, kind in enumerate(("payment_intent.succeeded", "charge.succeeded")):
        assert await door.knock(about(payment, kind, id=f"evt_{number}")) == "OK"
    assert await door.due() == []


async def test_money_at_a_payment_that_failed_is_taken_up(door: Door) -> None:
    door.story.processor.script = ["hard"]
    payment = await door.settled()
    door.story.charge_late(payment)
    assert await door.knock(about(payment)) == "OK"
    await door.story.recovery.step()
    assert (await door.story.read(payment)).status is Status.SUCCEEDED


async def test_a_decline_that_is_known_is_not_asked_about_again(door: Door) -> None:
    door.story.processor.script = ["hard"]
    payment = await door.settled()
    assert await door.knock(about(payment, "payment_intent.payment_failed")) == "OK"
    assert await door.due() == []


async def test_money_at_an_attempt_that_did_not_pay_is_news_of_a_paid_payment(door: Door) -> None:
    door.story.processor.script = ["soft"]
    payment = await door.settled()
    first = {"id": "pi_0", "object": "payment_intent", "metadata": {}}
    declined = an_event("payment_intent.payment_failed", data={"object": first}, id="evt_0")
    assert await door.knock(declined) == "OK"
    assert await door.due() == []
    door.story.charge_late(payment, 0)
    assert await door.knock(an_event("charge.succeeded", data={"object": first})) == "OK"
    await door.story.recovery.step()
    given_back = (await door.story.read(payment)).refunds
    assert [r.amount.minor_units for r in given_back] == [1999]


async def test_our_own_answer_comes_first(door: Door) -> None:
    door.story.processor.script = ["action"]
    payment = await door.story.create()
    assert await door.knock(about(payment)) == "OK"
    assert await door.due() == []
    door.story.clock.advance(seconds=2.1)
    assert await door.due() == [payment.payment_id]


async def test_a_look_is_brought_forward_and_never_put_off(door: Door) -> None:
    door.story.processor.script = ["lost_after"]
    payment = await door.story.create()
    door.story.clock.advance(seconds=1.5)  # due by its own schedule after one second
    assert await door.due() == [payment.payment_id]
    assert await door.knock(about(payment)) == "OK"
    assert await door.due() == [payment.payment_id]


async def test_out_of_order_events_end_at_the_truth(door: Door) -> None:
    door.story.processor.script = ["action"]
    payment = await door.story.create()
    door.story.clock.advance(minutes=1)
    door.story.payer(payment, "succeeded")
    kinds = ("payment_intent.succeeded", "payment_intent.processing", "payment_intent.canceled")
    for number, kind in enumerate(kinds):
        assert await door.knock(about(payment, kind, id=f"evt_{number}")) == "OK"
        await door.story.recovery.step()
        assert (await door.story.read(payment)).status is Status.SUCCEEDED


async def test_an_event_that_comes_twice_counts_once(door: Door) -> None:
    payment = await door.settled()
    assert await door.knock(an_event()) == "OK"
    while await door.story.recovery.step():
        pass
    assert await door.due() == []
    # Stripe signs a repeat anew.
    door.story.clock.advance(minutes=30)
    assert await door.knock(an_event()) == "OK"
    assert await door.due() == []
    # The same id at another account is another event.
    assert await door.knock(an_event(), account=SECOND) == "OK"
    assert await door.knock(an_event(id="evt_2")) == "OK"
    assert await door.due() == [payment.payment_id]


async def test_a_notice_is_durable_before_it_is_answered(door: Door) -> None:
    payment = await door.settled()
    assert await door.knock(an_event()) == "OK"
    await door.story.store.close()  # the process dies right after the answer
    await door.story.open()
    assert await door.due() == [payment.payment_id]


async def test_a_notice_that_overtakes_the_id_it_names_is_kept_for_it(door: Door) -> None:
    door.story.processor.script = ["lost_after"]
    payment = await door.story.create()
    door.story.clock.advance(seconds=5)
    # Nobody here has heard of pi_0 yet: the answer that told it was lost.
    assert await door.knock(an_event()) == "OK"
    await door.story.recovery.step()
    assert (await door.story.read(payment)).status is Status.SUCCEEDED
    door.story.clock.advance(seconds=3)
    assert await door.due() == [payment.payment_id]


async def test_a_notice_that_comes_during_a_look_is_looked_at_again(door: Door) -> None:
    payment = await door.settled()
    assert await door.knock(an_event()) == "OK"
    asked, go_on = asyncio.Event(), asyncio.Event()
    standing = door.story.processor.standing

    async def slow(*args: Any) -> Any:
        answer = await standing(*args)  # what was true before the second notice
        asked.set()
        await go_on.wait()
        return answer

    door.story.processor.standing = slow
    look = asyncio.create_task(door.story.recovery.step())
    await asked.wait()
    assert await door.knock(an_event("charge.dispute.updated", id="evt_2")) == "OK"
    go_on.set()
    await look
    assert await door.due() == [payment.payment_id]
    await door.story.recovery.step()
    assert await door.due() == []


@pytest.mark.parametrize(
    "event",
    [
        an_event("customer.created", data={"object": {"id": "cus_1", "object": "customer"}}),
        an_event("payment_intent.created"),
        an_event("v9.something.new", data={"object": {}}),
        an_event(data={"object": {"id": "dp_9", "object": "dispute", "payment_intent": "pi_9"}}),
        an_event(data={"object": {"id": "dp_9", "object": "dispute", "payment_intent": None}}),
        an_event(
            "charge.succeeded",
            data={"object": {"id": "ch_9", "object": "charge", "metadata": {"payment_id": "x"}}},
        ),
    ],
)
async def test_what_concerns_no_payment_is_taken_without_effect(door: Door, event: Any) -> None:
    await door.settled()
    assert await door.knock(event) == "OK"
    assert await door.due() == []


# ---- who may send one --------------------------------------------------------------------------


@pytest.mark.parametrize("seconds_ago", [-299, 0, 299])
async def test_a_notice_of_now_is_taken(door: Door, seconds_ago: int) -> None:
    assert await door.knock(an_event(), seconds_ago=seconds_ago) == "OK"


@pytest.mark.parametrize("seconds_ago", [-86_400, -302, 302, 86_400])
async def test_an_old_notice_and_one_of_the_future_are_refused(
    door: Door, seconds_ago: int
) -> None:
    await door.settled()
    assert await door.knock(an_event(), seconds_ago=seconds_ago) == REFUSED
    assert await door.due() == []


async def test_a_body_that_was_changed_by_one_byte_is_refused(door: Door) -> None:
    await door.settled()
    for tamper in (b" ", b"\n", b"\x00"):
        assert await door.knock(an_event(), tamper=tamper) == REFUSED
    assert await door.due() == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=,v1=",
        "t=1767268800",
        "v1=00",
        "t=1767268800,v0=00",
        "t=1767268800,v1=" + "0" * 64,
        "t=-1,v1=00",
        "t=99999999999999999999,v1=00",
        "t=1767268800,v1=",
        "garbage",
        "t=1767268800," + ",".join(["v1=00"] * 500),
    ],
)
async def test_a_signature_that_is_none_is_refused(door: Door, header: str) -> None:
    assert await door.knock(an_event(), header=header) == REFUSED


async def test_an_account_without_a_secret_takes_nothing(door: Door) -> None:
    door.accounts.have(FIRST)
    for secret in ("", "whsec_", "None"):
        header = stripe.WebhookSignature.generate_signature_header(
            json.dumps(an_event()), secret, int(door.story.clock.now.timestamp())
        )
        assert await door.knock(an_event(), header=header) == REFUSED


async def test_old_and_new_secret_count_while_one_replaces_the_other(door: Door) -> None:
    door.accounts.have(FIRST, OLD, NEW)
    assert await door.knock(an_event(id="evt_1"), secret=OLD) == "OK"
    assert await door.knock(an_event(id="evt_2"), secret=NEW) == "OK"
    door.accounts.have(FIRST, NEW)
    assert await door.knock(an_event(id="evt_3"), secret=OLD) == REFUSED
    assert await door.knock(an_event(id="evt_4"), secret=NEW) == "OK"


async def test_two_signatures_in_one_header_need_one_that_fits(door: Door) -> None:
    stamp = int(door.story.clock.now.timestamp())
    body = json.dumps(an_event())
    made = [
        stripe.WebhookSignature.generate_signature_header(body, s, stamp)
        for s in ("whsec_unknown", f"whsec_{FIRST}")
    ]
    header = f"{made[0]},{made[1].split(',')[1]}"
    assert await door.knock(an_event(), header=header) == "OK"


async def test_another_accounts_signature_is_refused(door: Door) -> None:
    await door.settled()
    assert await door.knock(an_event(), account=SECOND, secret=f"whsec_{FIRST}") == REFUSED
    assert await door.knock(an_event(), account=FIRST, secret=f"whsec_{SECOND}") == REFUSED
    assert await door.due() == []


async def test_an_account_nobody_knows_reads_like_a_wrong_signature(door: Door) -> None:
    assert await door.knock(an_event(), account="pac_d1" + "z" * 24) == REFUSED
    assert await door.knock(an_event(), processor="amazon_pay") == REFUSED


async def test_another_merchants_account_moves_no_payment_of_ours(door: Door) -> None:
    payment = await door.settled(capture_method=CaptureMethod.MANUAL)
    # Genuine, of an account of another merchant, and it names our payment and our intent.
    assert await door.knock(about(payment), account=OTHER_ACCOUNT) == "OK"
    assert await door.knock(an_event(id="evt_2"), account=OTHER_ACCOUNT) == "OK"
    # So does the merchant's own other account, where the payment was never tried.
    assert await door.knock(about(payment, id="evt_3"), account=SECOND) == "OK"
    assert await door.due() == []


async def test_live_events_and_test_accounts_never_mix(door: Door) -> None:
    payment = await door.settled()
    assert await door.knock(an_event(livemode=True)) == REFUSED
    door.accounts.have(FIRST, f"whsec_{FIRST}", livemode=True)
    assert await door.knock(an_event(livemode=False)) == REFUSED
    # A live account does not reach a test payment either.
    assert await door.knock(about(payment, livemode=True)) == "OK"
    assert await door.due() == []


async def test_an_event_of_a_connected_account_is_refused(door: Door) -> None:
    assert await door.knock(an_event(account="acct_other")) == REFUSED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        json.dumps({**an_event(), "livemode": "false"}).encode(),
        json.dumps(an_event(data={"object": {"metadata": {"payment_id": 5}}})).encode(),
        json.dumps(an_event(data={"object": {"payment_intent": {"id": "pi_0"}}})).encode(),
        b"[" * 20_000,
    ],
)
async def test_what_is_genuine_and_can_not_be_read_is_refused_by_name(
    door: Door, body: bytes
) -> None:
    stamp = int(door.story.clock.now.timestamp())
    header = _signed(body, f"whsec_{FIRST}", stamp)
    assert await door.knock(body, header=header) == "INVALID_ARGUMENT BODY_MALFORMED"


def _signed(body: bytes, secret: str, stamp: int) -> str:
    mac = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256)
    return f"t={stamp},v1={mac.hexdigest()}"


async def test_no_body_and_no_secret_gets_into_the_log(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    payment = await door.settled()
    marked = about(payment, "payment_intent.canceled", marker="find-me-4242424242424242")
    assert await door.knock(marked) == "OK"
    await door.knock(marked, secret="whsec_wrong")
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "webhook taken" in said
    for hidden in ("find-me", "whsec_", "v1="):
        assert hidden not in said


# ---- the parts ---------------------------------------------------------------------------------

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ACCOUNT = WebhookAccount(FIRST, "stripe", DEMO_MERCHANT.merchant_id, False, ("whsec_a", "whsec_b"))


@given(body=st.binary(max_size=200), header=st.text(max_size=200))
async def test_no_bytes_make_the_reader_fail_otherwise(body: bytes, header: str) -> None:
    reader = StripeNotices(FakeClock(NOW))
    for candidate, reason in (
        (header, "SIGNATURE_REFUSED"),
        (_signed(body, "whsec_b", int(NOW.timestamp())), "BODY_MALFORMED"),
    ):
        with pytest.raises(Refusal) as refused:
            await reader.read(ACCOUNT, {"stripe-signature": candidate}, body)
        assert refused.value.reason == reason


async def test_stripes_own_sdk_takes_the_same_signatures() -> None:
    body = json.dumps(an_event())
    now = int(datetime.now(UTC).timestamp())
    header = _signed(body.encode(), "whsec_b", now)
    event = stripe.Webhook.construct_event(body, header, "whsec_b")
    notice = await StripeNotices(lambda: datetime.now(UTC)).read(
        ACCOUNT, {"stripe-signature": header}, body.encode()
    )
    assert notice.event_id == event.id


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("topic", list(Topic))
def test_a_payment_no_processor_was_asked_about_has_no_news(topic: Topic, status: Status) -> None:
    if status in (Status.REQUIRES_CONFIRMATION, Status.IN_REVIEW, Status.BLOCKED):
        assert not is_news(topic, status)
    if status in (Status.UNKNOWN, Status.REQUIRES_ACTION, Status.NEEDS_REVIEW):
        assert is_news(topic, status) is (topic is not Topic.FEE)


async def test_notices_are_forgotten_after_their_time(story: Any) -> None:
    inbox = SqliteInbox(story.store)
    for number in range(3):
        notice = Notice(f"evt_{number}", "x", Topic.CHARGE)
        assert await inbox.take(ACCOUNT, notice, NOW + timedelta(days=number)) is Fate.NO_PAYMENT
    assert await inbox.forget(NOW + timedelta(days=1, seconds=1)) == 2
    assert await inbox.forget(NOW + timedelta(days=1, seconds=1)) == 0
    again = Notice("evt_2", "x", Topic.CHARGE)
    assert await inbox.take(ACCOUNT, again, NOW) is Fate.DUPLICATE


async def test_a_permission_that_was_charged_often_makes_each_payment_due(story: Any) -> None:
    # Amazon Pay's ids go on: S01-1-1 is the permission, S01-1-1-C1 a charge of it.
    payments = [await story.create(key) for key in ("a", "b", "c")]
    story.clock.advance(minutes=1)
    ids = ("S01-1-1-C1", "S01-1-1-C2", "S01-1-10-C1")

    def rename(connection: Any) -> None:
        for payment, name in zip(payments, ids, strict=True):
            connection.execute(
                "UPDATE attempt_by_processor_payment_id SET processor_payment_id = ?"
                " WHERE payment_id = ?",
                (name, payment.payment_id),
            )

    await story.store.write(rename)
    while await story.recovery.step():
        pass
    notice = Notice("n1", "refund", Topic.REFUND, processor_payment_id="S01-1-1")
    assert await SqliteInbox(story.store).take(ACCOUNT, notice, story.clock.now) is Fate.DUE
    assert await due(story) == sorted(p.payment_id for p in payments[:2])
