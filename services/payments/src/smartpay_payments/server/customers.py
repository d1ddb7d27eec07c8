"""Speaks the contract of customers and erasures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from smartpay.payments.v1 import customers_pb2, customers_pb2_grpc
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import cell_of, derive
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_chassis.refusals import idempotency_key_reused
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.customers import (
    Customer,
    ErasedCustomer,
    Erasure,
    check_erasable,
    customer_exists,
    customer_not_found,
    erasure_not_found,
)
from smartpay_payments.domain.events import CUSTOMER_ERASED
from smartpay_payments.domain.idempotency import request_hash
from smartpay_payments.domain.instruments import SavedInstrument, instrument_not_found
from smartpay_payments.domain.merchants import check_etag
from smartpay_payments.messages import timestamp
from smartpay_payments.server.audit import record_of_call

Context = object  # gRPC's own context is the interceptors' business


class CustomerStore(Protocol):
    """Keeps customers and erasures. Each method is one unit of work."""

    async def add(self, customer: Customer, record: AuditRecord) -> Customer | None:
        """Stores a new customer; answers the one that holds the id, if there is one."""
        ...

    async def save(self, customer: Customer, record: AuditRecord | None = None) -> bool:
        """Stores a customer's next version; answers False when somebody else was faster."""
        ...

    async def get(self, merchant_id: str, livemode: bool, customer_id: str) -> Customer | None:
        """Reads one customer of one merchant."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, after: str, size: int
    ) -> tuple[list[Customer], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        ...

    async def instrument(
        self, merchant_id: str, livemode: bool, instrument_id: str
    ) -> SavedInstrument | None:
        """Reads one instrument of one merchant."""
        ...

    async def begin_erasure(self, erasure: Erasure, record: AuditRecord) -> Erasure | None:
        """Stores a new erasure; answers the one that holds the id, if there is one."""
        ...

    async def erasure(self, merchant_id: str, livemode: bool, erasure_id: str) -> Erasure | None:
        """Reads one erasure of one merchant."""
        ...


class CustomersServicer(customers_pb2_grpc.CustomersServiceServicer):
    """Serves the contract.

    Args:
        store: keeps customers and erasures.
        clock: the time, aware.
        wake_eraser: called after an erasure was asked for.
    """

    def __init__(
        self,
        store: CustomerStore,
        clock: Callable[[], datetime],
        wake_eraser: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._wake_eraser = wake_eraser

    async def CreateCustomer(
        self, request: customers_pb2.CreateCustomerRequest, context: Context
    ) -> customers_pb2.CreateCustomerResponse:
        """Saves a customer."""
        call = current_call()
        now = self._clock()
        reference = derived(call, "cus", "CreateCustomer")
        customer = Customer(
            merchant_id=call.merchant_id,
            livemode=call.livemode,
            customer_id=request.customer_id or reference,
            reference=reference,
            request_hash=request_hash(request.SerializeToString(deterministic=True)),
            create_time=now,
            update_time=now,
            email=request.email,
            name=request.name,
            metadata={key: value for key, value in request.metadata.items() if value},
        )
        record = record_of_call(call, reference, {}, customer.facts(), now)
        held = await self._store.add(customer, record)
        if held is not None:
            if held.reference != reference:
                raise customer_exists()
            if held.request_hash != customer.request_hash:
                raise idempotency_key_reused()
            call.respond_with(headers={"idempotent-replayed": "true"})
        told = held or customer
        call.respond_with(
            http_status=201,
            headers={"location": f"/customers/{told.customer_id}", "etag": told.etag},
        )
        return customers_pb2.CreateCustomerResponse(customer=customer_message(told))

    async def GetCustomer(
        self, request: customers_pb2.GetCustomerRequest, context: Context
    ) -> customers_pb2.GetCustomerResponse:
        """Shows a customer."""
        customer = await self._customer(request.customer_id)
        current_call().respond_with(headers={"etag": customer.etag})
        return customers_pb2.GetCustomerResponse(customer=customer_message(customer))

    async def ListCustomers(
        self, request: customers_pb2.ListCustomersRequest, context: Context
    ) -> customers_pb2.ListCustomersResponse:
        """Lists the merchant's customers, newest first."""
        call = current_call()
        bound_to = f"customers {call.merchant_id} {call.livemode}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        customers, position = await self._store.page(
            call.merchant_id, call.livemode, after, page_size(request.page_size)
        )
        return customers_pb2.ListCustomersResponse(
            customers=[customer_message(c) for c in customers],
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )

    async def UpdateCustomer(
        self, request: customers_pb2.UpdateCustomerRequest, context: Context
    ) -> customers_pb2.UpdateCustomerResponse:
        """Changes what is given."""
        call = current_call()
        customer = await self._customer(request.customer_id)
        check_etag(request.etag, customer.etag)
        default = (
            request.default_instrument_id if request.HasField("default_instrument_id") else None
        )
        if default:
            instrument = await self._store.instrument(call.merchant_id, call.livemode, default)
            owned = instrument is not None and instrument.customer_id == customer.customer_id
            if not owned or (instrument is not None and instrument.detached):
                raise instrument_not_found("default_instrument_id")
        now = self._clock()
        changed = customer.changed(
            now,
            email=request.email if request.HasField("email") else None,
            name=request.name if request.HasField("name") else None,
            metadata=dict(request.metadata),
            default_instrument_id=default,
        )
        record = record_of_call(call, customer.reference, customer.facts(), changed.facts(), now)
        if not await self._store.save(changed, record):
            check_etag(request.etag, "")
        call.respond_with(headers={"etag": changed.etag})
        return customers_pb2.UpdateCustomerResponse(customer=customer_message(changed))

    async def CreateErasure(
        self, request: customers_pb2.CreateErasureRequest, context: Context
    ) -> customers_pb2.CreateErasureResponse:
        """Stores the erasure; it is done beside the calls."""
        call = current_call()
        check_erasable(request.customer_id)
        now = self._clock()
        erasure = Erasure(
            erasure_id=derived(call, "era", "CreateErasure"),
            merchant_id=call.merchant_id,
            livemode=call.livemode,
            customer_id=request.customer_id,
            request_hash=request_hash(request.SerializeToString(deterministic=True)),
            create_time=now,
        )
        record = record_of_call(call, erasure.erasure_id, {}, {"state": "RUNNING"}, now)
        held = await self._store.begin_erasure(erasure, record)
        if held is not None:
            if held.request_hash != erasure.request_hash:
                raise idempotency_key_reused()
            call.respond_with(headers={"idempotent-replayed": "true"})
        self._wake_eraser()
        told = held or erasure
        call.respond_with(
            http_status=200 if told.is_done else 202,
            headers={"location": f"/erasures/{told.erasure_id}"},
        )
        return customers_pb2.CreateErasureResponse(erasure=_erasure_message(told))

    async def GetErasure(
        self, request: customers_pb2.GetErasureRequest, context: Context
    ) -> customers_pb2.GetErasureResponse:
        """Shows how far an erasure is."""
        call = current_call()
        erasure = await self._store.erasure(call.merchant_id, call.livemode, request.erasure_id)
        if erasure is None:
            raise erasure_not_found()
        return customers_pb2.GetErasureResponse(erasure=_erasure_message(erasure))

    async def _customer(self, customer_id: str) -> Customer:
        call = current_call()
        customer = await self._store.get(call.merchant_id, call.livemode, customer_id)
        if customer is None:
            raise customer_not_found()
        return customer


def derived(call: Call, prefix: str, operation: str) -> str:
    """Answers the id that the call's idempotency key leads to."""
    return derive(
        prefix,
        call.merchant_id[4:6],
        call.merchant_id,
        "live" if call.livemode else "test",
        operation,
        call.idempotency_key,
    )


def customer_message(customer: Customer) -> customers_pb2.Customer:
    """Spells a customer."""
    return customers_pb2.Customer(
        customer_id=customer.customer_id,
        email=customer.email,
        name=customer.name,
        metadata=customer.metadata,
        default_instrument_id=customer.default_instrument_id,
        create_time=timestamp(customer.create_time),
        update_time=timestamp(customer.update_time),
        etag=customer.etag,
    )


def _erasure_message(erasure: Erasure) -> customers_pb2.Erasure:
    return customers_pb2.Erasure(
        erasure_id=erasure.erasure_id,
        state=(
            customers_pb2.Erasure.STATE_DONE
            if erasure.is_done
            else customers_pb2.Erasure.STATE_RUNNING
        ),
        erased_payments=erasure.erased_payments,
        create_time=timestamp(erasure.create_time),
        end_time=timestamp(erasure.end_time),
    )


def customer_event_message(erased: ErasedCustomer) -> customers_pb2.CustomerEvent:
    """Spells the event that ended an erasure, with the attributes of CloudEvents 1.0."""
    return customers_pb2.CustomerEvent(
        id=f"evt_{erased.erasure_id.removeprefix('era_')}",
        source=f"smartpay/payments/{cell_of(erased.erasure_id)}",
        specversion="1.0",
        type=CUSTOMER_ERASED,
        subject=erased.erasure_id,
        time=timestamp(erased.time),
        sequence=1,
        merchant_id=erased.merchant_id,
        livemode=erased.livemode,
        customer_key=erased.customer_key,
    )
