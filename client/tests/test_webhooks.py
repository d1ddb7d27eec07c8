"""A webhook is taken if it is genuine, fresh and whole, and refused otherwise."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from smartpay_client import Money, WebhookRefused, webhooks
from smartpay_payments.domain.webhook_delivery import signature

SENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ID = "whd_d1" + "0" * 24
OLD, NEW = b"o" * 32, b"n" * 32
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "evt_d1_3",
    "source": "smartpay/payments/d1",
    "type": "smartpay.payment.succeeded.v1",
    "subject": "pay_1",
    "time": "2026-01-02T03:04:04Z",
    "datacontenttype": "application/json",
    "sequence": "3",
    "sequencetype": "Integer",
    "merchantid": "mer_1",
    "livemode": False,
    "data": {"paymentId": "pay_1", "capturedAmount": {"minorUnits": "5", "currencyCode": "USD"}},
}
BODY = json.dumps(EVENT).encode()


def shown(secret: bytes) -> str:
    return f"whsec_{base64.b64encode(secret).decode()}"


def headers(*secrets: bytes, body: bytes = BODY, sent: datetime = SENT) -> dict[str, str]:
    """Spells what payments sends, signed by its own code."""
    return {
        "Webhook-Id": ID,
        "Webhook-Timestamp": str(int(sent.timestamp())),
        "Webhook-Signature": signature(secrets, ID, sent, body),
    }


def test_a_genuine_webhook_is_read() -> None:
    event = webhooks.verify(shown(NEW), headers(NEW), BODY, now=SENT)
    assert (event.webhook_id, event.id, event.type) == (ID, EVENT["id"], EVENT["type"])
    assert (event.subject, event.sequence, event.livemode) == ("pay_1", 3, False)
    assert (event.source, event.merchant_id) == (EVENT["source"], "mer_1")
    assert event.time == SENT - timedelta(seconds=1)
    assert event.payment.captured_amount == Money(5, "USD")


def test_the_standards_own_example_is_genuine() -> None:
    # From the specification's reference libraries' tests: secret, id, time, body, signature.
    given = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    now = datetime.fromtimestamp(1614265330, UTC)
    with pytest.raises(WebhookRefused) as caught:
        webhooks.verify(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", given, b'{"test": 2432232314}', now=now
        )
    assert caught.value.reason == "EVENT_UNREADABLE", "so it was found genuine"


@pytest.mark.parametrize("signed_by", [(OLD,), (NEW,), (NEW, OLD), (b"x" * 32, OLD)])
def test_while_a_secret_is_rotated_either_is_enough(signed_by: tuple[bytes, ...]) -> None:
    for known in ([shown(OLD), shown(NEW)], [shown(NEW), shown(OLD)]):
        assert webhooks.verify(known, headers(*signed_by), BODY, now=SENT).sequence == 3


def refusal(secret: bytes, given: dict[str, str], body: bytes, now: datetime = SENT) -> str:
    with pytest.raises(WebhookRefused) as caught:
        webhooks.verify(shown(secret), given, body, now=now)
    assert "whsec" not in str(caught.value)
    return caught.value.reason


def test_what_was_changed_on_the_way_is_refused() -> None:
    good = headers(NEW)
    assert refusal(OLD, good, BODY) == "SIGNATURE_REFUSED"
    assert refusal(NEW, good, BODY + b" ") == "SIGNATURE_REFUSED"
    later = str(int(SENT.timestamp()) + 1)
    for name, value in (
        ("Webhook-Id", "whd_other"),
        ("Webhook-Timestamp", later),
        ("Webhook-Signature", good["Webhook-Signature"].replace("v1,", "v2,")),
        ("Webhook-Signature", "v1"),
        ("Webhook-Signature", "v1,ü"),
        ("Webhook-Signature", "v1,\udcff"),
        ("Webhook-Id", "\udcff"),
    ):
        assert refusal(NEW, good | {name: value}, BODY) == "SIGNATURE_REFUSED"


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_what_lacks_a_header_is_refused(name: str) -> None:
    given = {n: value for n, value in headers(NEW).items() if n != name}
    assert refusal(NEW, given, BODY) == "HEADER_MISSING"


@pytest.mark.parametrize("seconds", [-300, 300])
def test_five_minutes_of_difference_are_borne(seconds: int) -> None:
    now = SENT + timedelta(seconds=seconds)
    assert webhooks.verify(shown(NEW), headers(NEW), BODY, now=now).sequence == 3


@pytest.mark.parametrize("seconds", [-301, 301])
def test_what_is_older_or_from_the_future_is_refused(seconds: int) -> None:
    now = SENT + timedelta(seconds=seconds)
    assert refusal(NEW, headers(NEW), BODY, now) == "TIMESTAMP_REFUSED"


def test_without_a_time_it_is_now() -> None:
    fresh = headers(NEW, sent=datetime.now(UTC))
    assert webhooks.verify(shown(NEW), fresh, BODY).sequence == 3
    with pytest.raises(WebhookRefused):
        webhooks.verify(shown(NEW), headers(NEW), BODY)


@pytest.mark.parametrize(
    "change",
    [{"sequence": None}, {"sequence": "x"}, {"data": []}, {"time": "soon"}, {"id": 5}],
    ids=str,
)
def test_a_genuine_one_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    body = json.dumps(EVENT | change).encode()
    assert refusal(NEW, headers(NEW, body=body), body) == "EVENT_UNREADABLE"


def test_what_a_newer_sender_adds_is_left_out() -> None:
    body = json.dumps(EVENT | {"type": "smartpay.payment.teleported.v1", "moon": 1}).encode()
    event = webhooks.verify(shown(NEW), headers(NEW, body=body), body, now=SENT)
    assert event.type == "smartpay.payment.teleported.v1"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "plain", "other_bm8="])
def test_a_secret_that_is_none_is_told_without_its_text(secret: str) -> None:
    with pytest.raises(ValueError, match="a secret is whsec_ and base64"):
        webhooks.verify(secret, headers(NEW), BODY, now=SENT)


def test_no_secret_takes_nothing() -> None:
    with pytest.raises(WebhookRefused):
        webhooks.verify([], headers(NEW), BODY, now=SENT)
