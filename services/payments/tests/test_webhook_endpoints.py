"""Events reach merchants' endpoints: signed, at least once, and with an end to patience."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from smartpay.payments.v1 import webhook_endpoints_pb2 as pb
from smartpay.payments.v1 import webhook_endpoints_pb2_grpc
from smartpay_chassis.ids import derive
from smartpay_chassis.testing import (
    DEMO_MERCHANT,
    OTHER_MERCHANT,
    as_merchant,
    error_info,
    serve_for_test,
)
from smartpay_payments.adapters.sqlite_webhook_deliveries import SqliteWebhookDeliveries
from smartpay_payments.adapters.sqlite_webhook_endpoints import SqliteWebhookEndpoints
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.webhook_delivery import Persistence, Reply, signature
from smartpay_payments.domain.webhook_endpoints import SecretName, SigningKeys
from smartpay_payments.public_events import CONTENT_TYPE, public_event
from smartpay_payments.server.webhook_endpoints import WebhookEndpointsServicer
from smartpay_payments.webhook_courier import LEASE, Courier

URL = "https://merchant.example/hook"
KEY, NEWER_KEY = "k" * 32, "n" * 32
PAUSES = (5.0, 60.0, 300.0)
TAKEN = Reply(200, "ok")
DOWN = Reply(failure_reason="timeout")


@dataclass
class Wire:
    """Where the courier's posts end: notes each, answers as told, or dies with the process."""

    answers: list[Reply | BaseException] = field(default_factory=list)
    otherwise: Reply = TAKEN
    sent: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    most: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.sent.append((url, dict(headers), body))
        self.now[url] += 1
        self.most[url] = max(self.most[url], self.now[url])
        if self.gate is not None:
            await self.gate.wait()
        self.now[url] -= 1
        answer = self.answers.pop(0) if self.answers else self.otherwise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in self.sent]

    @property
    def events(self) -> list[Any]:
        return [json.loads(body) for _, _, body in self.sent]


class Post:
    """Endpoints, courier and wire over one store that can be reopened."""

    def __init__(self, story: Any, keys: tuple[str, ...] = (KEY,)) -> None:
        self.story = story
        self.wire = Wire()
        self.keys = SigningKeys(keys)
        self.open()

    def open(self) -> None:
        self.endpoints = SqliteWebhookEndpoints(self.story.store)
        self.deliveries = SqliteWebhookDeliveries(self.story.store)
        self.courier = Courier(
            self.story.payments,
            self.deliveries,
            self.wire,
            self.keys,
            (public_event, CONTENT_TYPE),
            derive,
            self.story.clock,
            lambda: 0.5,
            Persistence(PAUSES, timedelta(days=5)),
            places=8,
            places_each=2,
        )

    async def carry(self) -> int:
        """Plans and sends what is there; answers how much was sent."""
        while await self.courier.plan():
            pass
        sent = 0
        while started := await self.courier.step():
            sent += started
        return sent


@dataclass
class Desk:
    """The service as an administrator finds it."""

    post: Post
    stub: webhook_endpoints_pb2_grpc.WebhookEndpointsServiceAsyncStub
    keys: int = 0

    async def create(
        self, url: str = URL, key: str = "", merchant: Any = DEMO_MERCHANT, **more: Any
    ) -> pb.WebhookEndpoint:
        self.keys += 1
        request = pb.CreateWebhookEndpointRequest(url=url, **more)
        metadata = as_merchant(merchant, idempotency_key=key or f"create-{self.keys}")
        response = await self.stub.CreateWebhookEndpoint(request, metadata=metadata, timeout=5)
        return response.webhook_endpoint

    async def rotate(self, endpoint_id: str, key: str = "", seconds: int = 60) -> Any:
        self.keys += 1
        request = pb.RotateWebhookSecretRequest(
            webhook_endpoint_id=endpoint_id, overlap_seconds=seconds
        )
        metadata = as_merchant(idempotency_key=key or f"rotate-{self.keys}")
        response = await self.stub.RotateWebhookSecret(request, metadata=metadata, timeout=5)
        return response.webhook_endpoint

    async def update(self, endpoint_id: str, **changes: Any) -> pb.WebhookEndpoint:
        request = pb.UpdateWebhookEndpointRequest(
            **{"webhook_endpoint_id": endpoint_id, "url": URL, "enabled": True, **changes}
        )
        response = await self.stub.UpdateWebhookEndpoint(request, metadata=as_merchant(), timeout=5)
        return response.webhook_endpoint

    async def get(self, endpoint_id: str, merchant: Any = DEMO_MERCHANT) -> pb.WebhookEndpoint:
        request = pb.GetWebhookEndpointRequest(webhook_endpoint_id=endpoint_id)
        response = await self.stub.GetWebhookEndpoint(
            request, metadata=as_merchant(merchant), timeout=5
        )
        return response.webhook_endpoint

    async def delete(self, endpoint_id: str, merchant: Any = DEMO_MERCHANT) -> None:
        request = pb.DeleteWebhookEndpointRequest(webhook_endpoint_id=endpoint_id)
        await self.stub.DeleteWebhookEndpoint(request, metadata=as_merchant(merchant), timeout=5)

    async def deliveries(self, endpoint_id: str, **filters: Any) -> Any:
        request = pb.ListWebhookDeliveriesRequest(webhook_endpoint_id=endpoint_id, **filters)
        return await self.stub.ListWebhookDeliveries(request, metadata=as_merchant(), timeout=5)

    async def resend(
        self, endpoint_id: str, delivery_id: str, merchant: Any = DEMO_MERCHANT
    ) -> Any:
        request = pb.ResendWebhookDeliveryRequest(
            webhook_endpoint_id=endpoint_id, webhook_delivery_id=delivery_id
        )
        response = await self.stub.ResendWebhookDelivery(
            request, metadata=as_merchant(merchant), timeout=5
        )
        return response.webhook_delivery

    async def only_delivery(self, endpoint_id: str) -> pb.WebhookDelivery:
        (delivery,) = (await self.deliveries(endpoint_id)).webhook_deliveries
        found: pb.WebhookDelivery = delivery
        return found


@pytest.fixture
def post(story: Any) -> Post:
    return Post(story)


@pytest.fixture
async def desk(post: Post) -> AsyncIterator[Desk]:
    servicer = WebhookEndpointsServicer(
        post.endpoints,
        post.deliveries,
        post.story.payments,
        post.keys,
        post.story.clock,
        allow_loopback=False,
    )
    service = pb.DESCRIPTOR.services_by_name["WebhookEndpointsService"]
    add = webhook_endpoints_pb2_grpc.add_WebhookEndpointsServiceServicer_to_server
    async with serve_for_test([(add, servicer, service)]) as channel:
        yield Desk(post, webhook_endpoints_pb2_grpc.WebhookEndpointsServiceStub(channel))


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return str(error_info(caught.value)["reason"])


def verified(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Verifies as a receiver does by the text of Standard Webhooks, sharing no code with us."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(
        hmac.compare_digest(part, f"v1,{wanted}") for part in headers["webhook-signature"].split()
    )


# ---- what is sent ------------------------------------------------------------------------------


async def test_each_event_reaches_the_endpoint_once_signed_and_whole(desk: Desk) -> None:
    endpoint = await desk.create()
    payment = await desk.post.story.create()
    assert await desk.post.carry() == 2
    wire = desk.post.wire
    for url, headers, body in wire.sent:
        assert url == URL
        assert verified(endpoint.secret, headers, body)
        assert headers["content-type"] == "application/cloudevents+json"
    types = [event["type"] for event in sorted(wire.events, key=lambda e: e["sequence"])]
    assert types == ["smartpay.payment.processing.v1", "smartpay.payment.succeeded.v1"]
    (last,) = (e for e in wire.events if e["type"] == types[1])
    assert (last["subject"], last["sequence"]) == (payment.payment_id, "2")
    assert last["data"]["capturedAmount"] == {"minorUnits": "1999", "currencyCode": "USD"}
    assert last["data"]["disputes"] == []
    assert last["merchantid"] == DEMO_MERCHANT.merchant_id
    assert await desk.post.carry() == 0
    assert len(set(wire.ids)) == 2


async def test_the_payers_device_and_address_stay_inside(desk: Desk) -> None:
    await desk.create()
    await desk.post.story.create(device_id="device-7", ip_address="203.0.113.7")
    await desk.post.carry()
    assert desk.post.wire.sent
    for _, _, body in desk.post.wire.sent:
        assert b"device-7" not in body
        assert b"203.0.113.7" not in body


def test_the_signature_is_the_one_of_the_standards_own_example() -> None:
    # github.com/standard-webhooks/standard-webhooks: the vector all its libraries are tested by.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(
        [secret],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_events_before_the_endpoint_are_not_sent(desk: Desk) -> None:
    await desk.post.story.create("before")
    await desk.create()
    await desk.post.story.create("after")
    await desk.post.carry()
    subjects = {event["subject"] for event in desk.post.wire.events}
    assert subjects == {derive("pay", "d1", "after")}


async def test_an_endpoint_gets_the_types_it_wants(desk: Desk) -> None:
    await desk.create("https://a.example/", event_types=["smartpay.refund.*"])
    await desk.create("https://b.example/", event_types=["smartpay.payment.succeeded.v1"])
    await desk.create("https://c.example/")
    payment = await desk.post.story.create()
    await desk.post.story.give_back(payment)
    await desk.post.carry()
    got = {
        host: sorted(
            json.loads(body)["type"]
            for url, _, body in desk.post.wire.sent
            if url.startswith(f"https://{host}.")
        )
        for host in "abc"
    }
    assert got["a"] == ["smartpay.refund.pending.v1", "smartpay.refund.succeeded.v1"]
    assert got["b"] == ["smartpay.payment.succeeded.v1"]
    assert len(got["c"]) == 4


async def test_no_merchant_gets_anothers_events(desk: Desk) -> None:
    await desk.create(merchant=OTHER_MERCHANT)
    await desk.post.story.create()
    assert await desk.post.carry() == 0


# ---- at least once -----------------------------------------------------------------------------


async def test_a_death_between_sending_and_noting_sends_it_again_under_the_same_id(
    desk: Desk, crash: type[BaseException]
) -> None:
    endpoint = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    await desk.post.story.create()
    desk.post.wire.answers = [crash()]
    with pytest.raises(BaseExceptionGroup):
        await desk.post.carry()
    assert len(desk.post.wire.sent) == 1
    await desk.post.story.store.close()
    await desk.post.story.open()
    desk.post.open()
    assert await desk.post.carry() == 0  # the dead process holds it for a while
    desk.post.story.clock.advance(seconds=LEASE.total_seconds() + 1)
    assert await desk.post.carry() == 1
    first, second = desk.post.wire.ids
    assert first == second
    assert verified(endpoint.secret, *desk.post.wire.sent[1][1:])
    # Signed anew: the receiver's replay window has passed.
    stamps = {headers["webhook-timestamp"] for _, headers, _ in desk.post.wire.sent}
    assert len(stamps) == 2


async def test_a_death_while_planning_loses_and_doubles_nothing(
    desk: Desk, crash: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.create()
    for number in range(20):
        await desk.post.story.create(str(number))
    plan = desk.post.deliveries.plan
    calls = 0

    async def dying(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise crash
        await plan(*args)

    monkeypatch.setattr(desk.post.deliveries, "plan", dying)
    with pytest.raises(crash):
        await desk.post.courier.plan()
    monkeypatch.undo()
    assert await desk.post.carry() == 40
    assert len(set(desk.post.wire.ids)) == 40


async def test_planning_an_event_twice_sends_it_once(desk: Desk) -> None:
    await desk.create()
    await desk.post.story.create()
    await desk.post.carry()
    await desk.post.deliveries.plan([], 0)
    assert await desk.post.carry() == 0


# ---- sent again --------------------------------------------------------------------------------


async def test_what_fails_is_sent_again_later_and_later_and_then_given_up(desk: Desk) -> None:
    endpoint = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    await desk.post.story.create()
    desk.post.wire.otherwise = Reply(500, "down")
    for pause in PAUSES:
        assert await desk.post.carry() == 1
        desk.post.story.clock.advance(seconds=pause - 1)
        assert await desk.post.carry() == 0
        desk.post.story.clock.advance(seconds=2)
    assert await desk.post.carry() == 1
    delivery = await desk.only_delivery(endpoint.webhook_endpoint_id)
    assert delivery.status == pb.WebhookDelivery.STATUS_FAILED
    assert (delivery.tries, delivery.response_code) == (4, 500)
    assert delivery.response_excerpt == "down"
    assert not delivery.HasField("next_try_time")
    desk.post.story.clock.advance(days=1)
    assert await desk.post.carry() == 0
    assert len(set(desk.post.wire.ids)) == 1


def test_the_default_schedule_goes_on_for_three_days() -> None:
    from smartpay_payments.webhooks import WebhookSettings

    pauses = WebhookSettings.model_fields["webhook_schedule_seconds"].default
    assert 2.9 <= sum(pauses) / 86400 <= 3.1
    assert list(pauses) == sorted(pauses)


@pytest.mark.parametrize("reply", [Reply(301), Reply(404), Reply(503), DOWN])
async def test_only_2xx_is_a_success(desk: Desk, reply: Reply) -> None:
    endpoint = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    await desk.post.story.create()
    desk.post.wire.answers = [reply]
    await desk.post.carry()
    delivery = await desk.only_delivery(endpoint.webhook_endpoint_id)
    assert delivery.status == pb.WebhookDelivery.STATUS_PENDING
    assert (delivery.response_code, delivery.failure_reason) == (reply.code, reply.failure_reason)


async def test_a_delivery_is_sent_again_by_hand(desk: Desk) -> None:
    endpoint = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    await desk.post.story.create()
    await desk.post.carry()
    delivery = await desk.only_delivery(endpoint.webhook_endpoint_id)
    assert delivery.status == pb.WebhookDelivery.STATUS_SUCCEEDED
    ids = (endpoint.webhook_endpoint_id, delivery.webhook_delivery_id)
    again = await desk.resend(*ids)
    assert again.status == pb.WebhookDelivery.STATUS_PENDING
    assert await desk.post.carry() == 1
    assert desk.post.wire.ids == [delivery.webhook_delivery_id] * 2
    assert (await desk.only_delivery(ids[0])).tries == 2
    assert await refused(desk.resend(*ids, merchant=OTHER_MERCHANT)) == "WEBHOOK_ENDPOINT_NOT_FOUND"
    missing = "whd_d1" + "0" * 24
    assert await refused(desk.resend(ids[0], missing)) == "WEBHOOK_DELIVERY_NOT_FOUND"
    await desk.update(ids[0], enabled=False)
    assert await refused(desk.resend(*ids)) == "WEBHOOK_ENDPOINT_DISABLED"


async def test_an_event_that_is_no_longer_kept_is_given_up_and_can_not_be_sent(desk: Desk) -> None:
    endpoint = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    await desk.post.story.create()
    desk.post.wire.answers = [DOWN]
    await desk.post.carry()
    desk.post.story.clock.advance(days=40)
    while await desk.post.story.payments.forget_events(desk.post.story.clock.now):
        pass
    await desk.post.carry()
    delivery = await desk.only_delivery(endpoint.webhook_endpoint_id)
    assert delivery.status == pb.WebhookDelivery.STATUS_FAILED
    assert delivery.failure_reason == "event_expired"
    ids = (endpoint.webhook_endpoint_id, delivery.webhook_delivery_id)
    assert await refused(desk.resend(*ids)) == "EVENT_EXPIRED"


# ---- endpoints that do not answer --------------------------------------------------------------


async def test_an_endpoint_that_fails_for_days_is_disabled_and_says_why(desk: Desk) -> None:
    endpoint = await desk.create()
    endpoint_id = endpoint.webhook_endpoint_id
    desk.post.wire.otherwise = Reply(500)
    for day in range(7):
        await desk.post.story.create(str(day))
        await desk.post.carry()
        desk.post.story.clock.advance(days=1)
    after = await desk.get(endpoint_id)
    assert not after.enabled
    assert "since 2026-01-01" in after.disabled_reason
    assert "status 500" in after.disabled_reason
    sent = len(desk.post.wire.sent)
    await desk.post.story.create("later")
    assert await desk.post.carry() == 0
    # Enabled again, it gets what waited, and not what came meanwhile.
    desk.post.wire.otherwise = TAKEN
    enabled = await desk.update(endpoint_id)
    assert (enabled.enabled, enabled.disabled_reason) == (True, "")
    assert not enabled.HasField("failing_since_time")
    await desk.post.carry()
    assert len(desk.post.wire.sent) > sent
    later = derive("pay", "d1", "later")
    assert later not in {event["subject"] for event in desk.post.wire.events}


async def test_one_success_begins_the_count_anew(desk: Desk) -> None:
    endpoint = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    for day in range(10):
        desk.post.wire.answers = [TAKEN] if day == 4 else [DOWN] * 9
        await desk.post.story.create(str(day))
        await desk.post.carry()
        desk.post.story.clock.advance(days=1)
        assert (await desk.get(endpoint.webhook_endpoint_id)).enabled is (day < 10)
    assert (await desk.get(endpoint.webhook_endpoint_id)).HasField("failing_since_time")


async def test_gone_means_gone(desk: Desk) -> None:
    endpoint = await desk.create()
    desk.post.wire.answers = [Reply(410)]
    await desk.post.story.create()
    await desk.post.carry()
    after = await desk.get(endpoint.webhook_endpoint_id)
    assert not after.enabled
    assert "410" in after.disabled_reason


async def test_a_slow_endpoint_holds_nobody_up(desk: Desk) -> None:
    await desk.create("https://slow.example/")
    await desk.create("https://quick.example/")
    for number in range(10):
        await desk.post.story.create(str(number))
    while await desk.post.courier.plan():
        pass
    wire = desk.post.wire
    wire.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            await desk.post.courier._start_due(group)
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        wire.gate.set()
    # Two places each of the eight, however much waits.
    assert wire.most["https://slow.example/"] == 2
    assert wire.most["https://quick.example/"] == 2
    await desk.post.carry()
    assert len(wire.sent) == 40


async def test_one_delivery_that_breaks_does_not_stop_the_courier(desk: Desk) -> None:
    await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    await desk.post.story.create("a")
    await desk.post.story.create("b")
    desk.post.wire.answers = [RuntimeError("a fault of ours")]
    await desk.post.carry()
    assert len(set(desk.post.wire.ids)) == 2
    desk.post.story.clock.advance(seconds=LEASE.total_seconds() + 1)
    assert await desk.post.carry() == 1


# ---- secrets -----------------------------------------------------------------------------------


async def test_the_secret_is_shown_once_and_again_only_to_who_made_it(desk: Desk) -> None:
    made = await desk.create(key="k")
    assert made.secret.startswith("whsec_")
    assert len(base64.b64decode(made.secret.removeprefix("whsec_"))) == 32
    assert (await desk.get(made.webhook_endpoint_id)).secret == ""
    again = await desk.create(key="k")
    assert (again.webhook_endpoint_id, again.secret) == (made.webhook_endpoint_id, made.secret)
    assert await refused(desk.create("https://other.example/", key="k")) == "IDEMPOTENCY_KEY_REUSED"
    desk.post.story.clock.advance(days=1)
    assert (await desk.create(key="k")).secret == ""
    listed = await desk.stub.ListWebhookEndpoints(
        pb.ListWebhookEndpointsRequest(), metadata=as_merchant()
    )
    assert [e.secret for e in listed.webhook_endpoints] == [""]


async def test_both_secrets_sign_while_one_replaces_the_other(desk: Desk) -> None:
    made = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    rotated = await desk.rotate(made.webhook_endpoint_id, key="r", seconds=3600)
    assert rotated.secret != made.secret
    assert rotated.HasField("previous_secret_expire_time")
    await desk.post.story.create("a")
    await desk.post.carry()
    _, headers, body = desk.post.wire.sent[0]
    assert len(headers["webhook-signature"].split()) == 2
    assert verified(made.secret, headers, body)
    assert verified(rotated.secret, headers, body)
    # A repeat rotates nothing twice, and shows the same secret.
    assert (await desk.rotate(made.webhook_endpoint_id, "r", 3600)).secret == rotated.secret
    desk.post.story.clock.advance(seconds=3601)
    await desk.post.story.create("b")
    await desk.post.carry()
    _, headers, body = desk.post.wire.sent[1]
    assert not verified(made.secret, headers, body)
    assert verified(rotated.secret, headers, body)
    assert not (await desk.get(made.webhook_endpoint_id)).HasField("previous_secret_expire_time")


async def test_a_secret_that_got_out_ends_at_once(desk: Desk) -> None:
    made = await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    rotated = await desk.rotate(made.webhook_endpoint_id, seconds=0)
    await desk.post.story.create()
    await desk.post.carry()
    _, headers, body = desk.post.wire.sent[0]
    assert not verified(made.secret, headers, body)
    assert verified(rotated.secret, headers, body)


def test_the_operators_key_can_be_replaced_too() -> None:
    old, both, new = SigningKeys([KEY]), SigningKeys([NEWER_KEY, KEY]), SigningKeys([NEWER_KEY])
    name = SecretName(old.newest_id, 1)
    assert both.secret("whe_1", name) == old.secret("whe_1", name)
    assert both.newest_id == new.newest_id != old.newest_id
    assert new.secret("whe_1", name) is None
    assert old.secret("whe_1", name) != old.secret("whe_2", name)
    assert old.secret("whe_1", name) != old.secret("whe_1", replace(name, generation=2))
    with pytest.raises(ValueError, match="32"):
        SigningKeys(["short"])


async def test_no_secret_is_stored_or_logged(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    made = await desk.create()
    rotated = await desk.rotate(made.webhook_endpoint_id)
    await desk.post.story.create()
    await desk.post.carry()
    raw = [base64.b64decode(e.secret.removeprefix("whsec_")) for e in (made, rotated)]

    def dump(connection: Any) -> bytes:
        return b"\n".join(line.encode() for line in connection.iterdump())

    stored = await desk.post.story.store.read(dump)
    captured = capsys.readouterr()
    for place in (stored, (captured.out + captured.err).encode()):
        assert KEY.encode() not in place
        for secret, endpoint in zip(raw, (made, rotated), strict=True):
            assert secret not in place
            assert secret.hex().encode() not in place.lower()
            assert endpoint.secret.removeprefix("whsec_").encode() not in place


async def test_without_a_signing_key_nobody_has_endpoints(desk: Desk) -> None:
    desk.post.keys._keys.clear()
    desk.post.keys.newest_id = ""
    assert await refused(desk.create()) == "WEBHOOKS_NOT_CONFIGURED"


# ---- the desk ----------------------------------------------------------------------------------


async def test_addresses_of_our_own_network_are_refused(desk: Desk) -> None:
    for url in ("http://merchant.example/", "https://127.0.0.1/", "https://[::1]/"):
        assert await refused(desk.create(url)) == "WEBHOOK_URL_REFUSED"
    made = await desk.create()
    changed = desk.update(made.webhook_endpoint_id, url="https://169.254.169.254/")
    assert await refused(changed) == "WEBHOOK_URL_REFUSED"


async def test_another_merchants_endpoint_reads_like_none(desk: Desk) -> None:
    made = await desk.create()
    hidden = desk.get(made.webhook_endpoint_id, OTHER_MERCHANT)
    assert await refused(hidden) == "WEBHOOK_ENDPOINT_NOT_FOUND"
    await desk.delete(made.webhook_endpoint_id, OTHER_MERCHANT)
    assert (await desk.get(made.webhook_endpoint_id)).enabled


async def test_a_deleted_endpoint_is_gone_and_its_key_makes_none_anew(desk: Desk) -> None:
    made = await desk.create(key="k")
    await desk.post.story.create()
    await desk.post.courier.plan()
    await desk.delete(made.webhook_endpoint_id)
    await desk.delete(made.webhook_endpoint_id)
    assert await desk.post.carry() == 0
    assert await refused(desk.get(made.webhook_endpoint_id)) == "WEBHOOK_ENDPOINT_NOT_FOUND"
    assert await refused(desk.create(key="k")) == "WEBHOOK_ENDPOINT_NOT_FOUND"


async def test_a_merchant_has_sixteen_at_most(desk: Desk) -> None:
    made = [await desk.create(f"https://{n}.example/") for n in range(16)]
    assert await refused(desk.create()) == "WEBHOOK_ENDPOINTS_TOO_MANY"
    await desk.delete(made[0].webhook_endpoint_id)
    await desk.create()
    await desk.create(merchant=OTHER_MERCHANT)


async def test_lists_are_paged_and_bound_to_what_was_asked(desk: Desk) -> None:
    made = [await desk.create(f"https://{n}.example/") for n in range(5)]
    seen, token = [], ""
    while True:
        page = await desk.stub.ListWebhookEndpoints(
            pb.ListWebhookEndpointsRequest(page_size=2, page_token=token), metadata=as_merchant()
        )
        seen += [e.webhook_endpoint_id for e in page.webhook_endpoints]
        token = page.next_page_token
        if not token:
            break
    assert seen == [e.webhook_endpoint_id for e in made]
    for number in range(5):
        await desk.post.story.create(str(number))
    await desk.post.carry()
    endpoint_id = seen[0]
    first = await desk.deliveries(endpoint_id, page_size=6)
    second = await desk.deliveries(endpoint_id, page_size=6, page_token=first.next_page_token)
    ids = [d.webhook_delivery_id for p in (first, second) for d in p.webhook_deliveries]
    assert len(set(ids)) == len(ids) == 10
    assert not second.next_page_token
    other = desk.deliveries(seen[1], page_token=first.next_page_token)
    assert await refused(other) == "PAGE_TOKEN_INVALID"
    failed = await desk.deliveries(endpoint_id, status=pb.WebhookDelivery.STATUS_FAILED)
    assert not failed.webhook_deliveries


async def test_every_change_is_in_the_audit_trail_without_path_or_secret(desk: Desk) -> None:
    made = await desk.create("https://merchant.example/hook?token=find-me")
    await desk.rotate(made.webhook_endpoint_id)
    await desk.update(made.webhook_endpoint_id, description="new")
    await desk.update(made.webhook_endpoint_id, description="new")
    await desk.delete(made.webhook_endpoint_id)

    def read(connection: Any) -> list[tuple[str, str]]:
        rows = connection.execute("SELECT action, document FROM audit ORDER BY position")
        return [(row["action"].rpartition(".")[2], bytes(row["document"]).decode()) for row in rows]

    trail = await desk.post.story.store.read(read)
    assert [action for action, _ in trail] == [
        "CreateWebhookEndpoint",
        "RotateWebhookSecret",
        "UpdateWebhookEndpoint",
        "DeleteWebhookEndpoint",
    ]
    for _, document in trail:
        assert "find-me" not in document
        assert "whsec_" not in document


async def test_deliveries_are_forgotten_after_their_time(desk: Desk) -> None:
    endpoint = await desk.create()
    await desk.post.story.create()
    await desk.post.carry()
    now = desk.post.story.clock.now
    assert await desk.post.deliveries.forget(now - timedelta(days=1)) == 0
    assert await desk.post.deliveries.forget(now + timedelta(days=1)) == 2
    assert not (await desk.deliveries(endpoint.webhook_endpoint_id)).webhook_deliveries


async def test_the_courier_works_by_itself(desk: Desk) -> None:
    await desk.create(event_types=["smartpay.payment.succeeded.v1"])
    running = asyncio.create_task(desk.post.courier.run())
    payment: Payment = await desk.post.story.create()
    async with asyncio.timeout(10):
        while not desk.post.wire.sent:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.post.wire.events[0]["subject"] == payment.payment_id
