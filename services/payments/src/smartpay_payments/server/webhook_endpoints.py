"""Speaks the contract of merchants' webhook endpoints and of what was sent to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from google.protobuf.message import Message

from smartpay.payments.v1 import webhook_endpoints_pb2, webhook_endpoints_pb2_grpc
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import derive
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.idempotency import request_hash
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.webhook_delivery import (
    Delivery,
    DeliveryStatus,
    delivery_not_found,
    event_expired,
)
from smartpay_payments.domain.webhook_endpoints import (
    Endpoint,
    SecretName,
    SigningKeys,
    check_url,
    endpoint_not_found,
    not_configured,
    too_busy,
)
from smartpay_payments.messages import timestamp
from smartpay_payments.server.audit import record_of_call

SHOWN_AGAIN = timedelta(days=1)
"""How long a repeated create or rotate shows the secret again: a caller whose answer was lost
comes back within minutes, and a secret had better not be readable for longer."""
TRIES = 3
"""Against other changes of the same endpoint: the courier's, or another administrator's."""

Context = object  # gRPC's own context is the interceptors' business


class EndpointStore(Protocol):
    """Keeps endpoints; every change goes with its audit record."""

    async def end_of_log(self) -> int:
        """Answers the place of the newest event."""
        ...

    async def create(
        self, endpoint: Endpoint, request_hash: str, record: AuditRecord
    ) -> Endpoint | None:
        """Stores a new endpoint; answers None, or the one that the same key made before."""
        ...

    async def save(self, endpoint: Endpoint, record: AuditRecord) -> bool:
        """Stores the next version; answers False when another one was stored first."""
        ...

    async def rotated(self, operation_id: str, request_hash: str) -> int | None:
        """Answers which generation of the secret a key made; None when it made none yet."""
        ...

    async def rotate(
        self, endpoint: Endpoint, operation_id: str, request_hash: str, record: AuditRecord
    ) -> bool:
        """Stores an endpoint with its next secret; answers False when somebody was faster."""
        ...

    async def delete(
        self, merchant_id: str, livemode: bool, webhook_endpoint_id: str, record: AuditRecord
    ) -> None:
        """Takes an endpoint away; does nothing when there is none."""
        ...

    async def get(
        self, merchant_id: str, livemode: bool, webhook_endpoint_id: str
    ) -> Endpoint | None:
        """Reads one endpoint of one merchant."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, after: str, size: int
    ) -> tuple[list[Endpoint], str]:
        """Reads a page of endpoints, oldest first, and the position to go on after."""
        ...


class DeliveryLog(Protocol):
    """Reads deliveries, and plans one anew."""

    async def get(
        self, merchant_id: str, livemode: bool, webhook_endpoint_id: str, webhook_delivery_id: str
    ) -> Delivery | None:
        """Reads one delivery to one of the merchant's endpoints."""
        ...

    async def page(
        self, webhook_endpoint_id: str, status: DeliveryStatus | None, after: str, size: int
    ) -> tuple[list[Delivery], str]:
        """Reads a page of an endpoint's deliveries, newest first, and where to go on."""
        ...

    async def resend(
        self,
        merchant_id: str,
        livemode: bool,
        webhook_endpoint_id: str,
        webhook_delivery_id: str,
        now: datetime,
    ) -> Delivery:
        """Makes a delivery due as if it had never been sent."""
        ...


class KeptEvents(Protocol):
    """Tells which events are still kept."""

    async def version(self, payment_id: str, version: int) -> Payment | None:
        """Reads one version of a payment while its event is kept."""
        ...


class WebhookEndpointsServicer(webhook_endpoints_pb2_grpc.WebhookEndpointsServiceServicer):
    """Serves administrators of a merchant.

    Args:
        endpoints: where endpoints are kept.
        deliveries: what was sent to them.
        events: what can be sent again.
        keys: make the secrets.
        clock: the time, aware.
        allow_loopback: true in development, where receivers live on this machine.
    """

    def __init__(
        self,
        endpoints: EndpointStore,
        deliveries: DeliveryLog,
        events: KeptEvents,
        keys: SigningKeys,
        clock: Callable[[], datetime],
        *,
        allow_loopback: bool,
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._events = events
        self._keys = keys
        self._clock = clock
        self._allow_loopback = allow_loopback

    # ---- endpoints ---------------------------------------------------------------------------

    async def CreateWebhookEndpoint(
        self,
        request: webhook_endpoints_pb2.CreateWebhookEndpointRequest,
        context: Context,
    ) -> webhook_endpoints_pb2.CreateWebhookEndpointResponse:
        """Adds an endpoint and shows its secret."""
        call, now = current_call(), self._clock()
        self._check(request.url)
        endpoint_id, hashed = _operation("whe", request, call)
        endpoint = Endpoint(
            webhook_endpoint_id=endpoint_id,
            merchant_id=call.merchant_id,
            livemode=call.livemode,
            url=request.url,
            description=request.description,
            event_types=tuple(request.event_types),
            enabled=True,
            secret=SecretName(self._keys.newest_id, 1),
            from_position=await self._endpoints.end_of_log(),
            create_time=now,
            update_time=now,
        )
        record = record_of_call(call, endpoint_id, {}, _facts(endpoint), now)
        made = await self._endpoints.create(endpoint, hashed, record)
        call.respond_with(
            http_status=201, headers={"location": f"/webhook_endpoints/{endpoint_id}"}
        )
        if made is not None:
            call.respond_with(headers={"idempotent-replayed": "true"})
            endpoint = made
        is_fresh = endpoint.secret.generation == 1 and now - endpoint.create_time < SHOWN_AGAIN
        return webhook_endpoints_pb2.CreateWebhookEndpointResponse(
            webhook_endpoint=self._message(endpoint, shows_secret=is_fresh)
        )

    async def GetWebhookEndpoint(
        self, request: webhook_endpoints_pb2.GetWebhookEndpointRequest, context: Context
    ) -> webhook_endpoints_pb2.GetWebhookEndpointResponse:
        """Shows one endpoint."""
        endpoint = await self._endpoint(request.webhook_endpoint_id)
        return webhook_endpoints_pb2.GetWebhookEndpointResponse(
            webhook_endpoint=self._message(endpoint)
        )

    async def ListWebhookEndpoints(
        self, request: webhook_endpoints_pb2.ListWebhookEndpointsRequest, context: Context
    ) -> webhook_endpoints_pb2.ListWebhookEndpointsResponse:
        """Lists the merchant's endpoints, oldest first."""
        call = current_call()
        bound_to = f"ListWebhookEndpoints {call.merchant_id} {call.livemode}"
        found, following = await self._endpoints.page(
            call.merchant_id,
            call.livemode,
            _position(request.page_token, bound_to),
            page_size(request.page_size),
        )
        return webhook_endpoints_pb2.ListWebhookEndpointsResponse(
            webhook_endpoints=[self._message(endpoint) for endpoint in found],
            next_page_token=_token(following, bound_to),
        )

    async def UpdateWebhookEndpoint(
        self, request: webhook_endpoints_pb2.UpdateWebhookEndpointRequest, context: Context
    ) -> webhook_endpoints_pb2.UpdateWebhookEndpointResponse:
        """Replaces what an endpoint is told."""
        self._check(request.url)
        for _ in range(TRIES):
            before = await self._endpoint(request.webhook_endpoint_id)
            after = replace(
                before,
                url=request.url,
                description=request.description,
                event_types=tuple(request.event_types),
            )
            if request.enabled is not before.enabled:
                after = replace(
                    after, enabled=request.enabled, disabled_reason="", failing_since_time=None
                )
            if request.enabled and not before.enabled:
                after = replace(after, from_position=await self._endpoints.end_of_log())
            if after == before:
                break
            now = self._clock()
            after = replace(after, update_time=now, version=before.version + 1)
            record = record_of_call(
                current_call(), before.webhook_endpoint_id, _facts(before), _facts(after), now
            )
            if await self._endpoints.save(after, record):
                break
        else:
            raise too_busy()
        return webhook_endpoints_pb2.UpdateWebhookEndpointResponse(
            webhook_endpoint=self._message(after)
        )

    async def DeleteWebhookEndpoint(
        self, request: webhook_endpoints_pb2.DeleteWebhookEndpointRequest, context: Context
    ) -> webhook_endpoints_pb2.DeleteWebhookEndpointResponse:
        """Takes an endpoint away."""
        call, endpoint_id = current_call(), request.webhook_endpoint_id
        before = await self._endpoints.get(call.merchant_id, call.livemode, endpoint_id)
        if before is not None:
            record = record_of_call(call, endpoint_id, _facts(before), {}, self._clock())
            await self._endpoints.delete(call.merchant_id, call.livemode, endpoint_id, record)
        return webhook_endpoints_pb2.DeleteWebhookEndpointResponse()

    async def RotateWebhookSecret(
        self, request: webhook_endpoints_pb2.RotateWebhookSecretRequest, context: Context
    ) -> webhook_endpoints_pb2.RotateWebhookSecretResponse:
        """Gives an endpoint its next secret and shows it."""
        call = current_call()
        if not self._keys.newest_id:
            raise not_configured()
        operation_id, hashed = _operation("whr", request, call)
        for _ in range(TRIES):
            now = self._clock()
            before = await self._endpoint(request.webhook_endpoint_id)
            made = await self._endpoints.rotated(operation_id, hashed)
            if made is not None:
                call.respond_with(headers={"idempotent-replayed": "true"})
                is_fresh = (
                    before.secret.generation == made and now - before.update_time < SHOWN_AGAIN
                )
                return webhook_endpoints_pb2.RotateWebhookSecretResponse(
                    webhook_endpoint=self._message(before, shows_secret=is_fresh)
                )
            expire_time = now + timedelta(seconds=request.overlap_seconds)
            after = before.rotated(self._keys.newest_id, expire_time, now)
            record = record_of_call(
                call, before.webhook_endpoint_id, _facts(before), _facts(after), now
            )
            if await self._endpoints.rotate(after, operation_id, hashed, record):
                return webhook_endpoints_pb2.RotateWebhookSecretResponse(
                    webhook_endpoint=self._message(after, shows_secret=True)
                )
        raise too_busy()

    # ---- deliveries --------------------------------------------------------------------------

    async def ListWebhookDeliveries(
        self, request: webhook_endpoints_pb2.ListWebhookDeliveriesRequest, context: Context
    ) -> webhook_endpoints_pb2.ListWebhookDeliveriesResponse:
        """Lists what was sent to an endpoint and what is still to be sent, newest first."""
        endpoint = await self._endpoint(request.webhook_endpoint_id)
        bound_to = f"ListWebhookDeliveries {endpoint.webhook_endpoint_id} {request.status}"
        found, following = await self._deliveries.page(
            endpoint.webhook_endpoint_id,
            _status_of(request.status),
            _position(request.page_token, bound_to),
            page_size(request.page_size),
        )
        return webhook_endpoints_pb2.ListWebhookDeliveriesResponse(
            webhook_deliveries=[_delivery_message(delivery) for delivery in found],
            next_page_token=_token(following, bound_to),
        )

    async def ResendWebhookDelivery(
        self, request: webhook_endpoints_pb2.ResendWebhookDeliveryRequest, context: Context
    ) -> webhook_endpoints_pb2.ResendWebhookDeliveryResponse:
        """Plans a delivery anew."""
        call = current_call()
        wanted = (
            call.merchant_id,
            call.livemode,
            request.webhook_endpoint_id,
            request.webhook_delivery_id,
        )
        await self._endpoint(request.webhook_endpoint_id)
        delivery = await self._deliveries.get(*wanted)
        if delivery is None:
            raise delivery_not_found()
        if await self._events.version(delivery.payment_id, delivery.version) is None:
            raise event_expired()
        planned = await self._deliveries.resend(*wanted, self._clock())
        return webhook_endpoints_pb2.ResendWebhookDeliveryResponse(
            webhook_delivery=_delivery_message(planned)
        )

    # ---- parts -------------------------------------------------------------------------------

    def _check(self, url: str) -> None:
        if not self._keys.newest_id:
            raise not_configured()
        check_url(url, allow_loopback=self._allow_loopback)

    async def _endpoint(self, webhook_endpoint_id: str) -> Endpoint:
        call = current_call()
        found = await self._endpoints.get(call.merchant_id, call.livemode, webhook_endpoint_id)
        if found is None:
            raise endpoint_not_found()
        return found

    def _message(
        self, endpoint: Endpoint, *, shows_secret: bool = False
    ) -> webhook_endpoints_pb2.WebhookEndpoint:
        secret = ""
        if shows_secret:
            secret = self._keys.shown(endpoint.webhook_endpoint_id, endpoint.secret)
        is_past = endpoint.signing_secrets(self._clock()) == (endpoint.secret,)
        return webhook_endpoints_pb2.WebhookEndpoint(
            webhook_endpoint_id=endpoint.webhook_endpoint_id,
            url=endpoint.url,
            description=endpoint.description,
            event_types=endpoint.event_types,
            enabled=endpoint.enabled,
            disabled_reason=endpoint.disabled_reason,
            secret=secret,
            previous_secret_expire_time=(
                None if is_past else timestamp(endpoint.previous_secret_expire_time)
            ),
            failing_since_time=timestamp(endpoint.failing_since_time),
            create_time=timestamp(endpoint.create_time),
            update_time=timestamp(endpoint.update_time),
        )


def _facts(endpoint: Endpoint) -> Mapping[str, object]:
    """Lists what the audit trail may tell: no secret, and no path, which may hold one."""
    return {
        "host": endpoint.url.partition("://")[2].partition("/")[0].partition("?")[0],
        "description": endpoint.description,
        "event_types": ", ".join(endpoint.event_types),
        "enabled": endpoint.enabled,
        "secret_generation": endpoint.secret.generation,
    }


def _operation(prefix: str, request: Message, call: Call) -> tuple[str, str]:
    """Answers the id that the call's key leads to, and the hash of the request."""
    operation_id = derive(
        prefix,
        call.merchant_id[4:6],
        call.merchant_id,
        "live" if call.livemode else "test",
        call.method.rpartition("/")[2],
        call.idempotency_key,
    )
    return operation_id, request_hash(request.SerializeToString(deterministic=True))


def _position(page_token: str, bound_to: str) -> str:
    return decode_page_token(page_token, bound_to=bound_to) if page_token else ""


def _token(position: str, bound_to: str) -> str:
    return encode_page_token(position, bound_to=bound_to) if position else ""


def _status_of(
    status: webhook_endpoints_pb2.WebhookDelivery.Status.ValueType,
) -> DeliveryStatus | None:
    names = webhook_endpoints_pb2.WebhookDelivery.Status
    return DeliveryStatus(names.Name(status).removeprefix("STATUS_")) if status else None


def _delivery_message(delivery: Delivery) -> webhook_endpoints_pb2.WebhookDelivery:
    return webhook_endpoints_pb2.WebhookDelivery(
        webhook_delivery_id=delivery.webhook_delivery_id,
        webhook_endpoint_id=delivery.webhook_endpoint_id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        payment_id=delivery.payment_id,
        status=webhook_endpoints_pb2.WebhookDelivery.Status.Value(f"STATUS_{delivery.status}"),
        tries=delivery.tries,
        next_try_time=timestamp(delivery.next_try_time),
        last_try_time=timestamp(delivery.last_try_time),
        response_code=delivery.response_code,
        response_excerpt=delivery.response_excerpt,
        failure_reason=delivery.failure_reason,
        create_time=timestamp(delivery.create_time),
    )
