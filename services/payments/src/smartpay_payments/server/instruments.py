"""Speaks the contract of saved instruments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from smartpay.payments.v1 import instruments_pb2, instruments_pb2_grpc, payment_pb2
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_payments.domain.customers import customer_not_found
from smartpay_payments.domain.idempotency import request_hash
from smartpay_payments.domain.instrument_setup import InstrumentSetup, InstrumentStore
from smartpay_payments.domain.instruments import (
    SavedInstrument,
    SavedToken,
    instrument_not_found,
)
from smartpay_payments.domain.merchants import Profile
from smartpay_payments.messages import PROCESSORS, timestamp
from smartpay_payments.server.audit import record_of_call
from smartpay_payments.server.customers import derived

Context = object  # gRPC's own context is the interceptors' business


class InstrumentsServicer(instruments_pb2_grpc.InstrumentsServiceServicer):
    """Serves the contract.

    Args:
        setup: moves instruments on.
        store: keeps customers and instruments.
        profile_of: the merchant's profile by id and mode, for its accounts.
        clock: the time, aware.
    """

    def __init__(
        self,
        setup: InstrumentSetup,
        store: InstrumentStore,
        profile_of: Callable[[str, bool], Profile | None],
        clock: Callable[[], datetime],
    ) -> None:
        self._setup = setup
        self._store = store
        self._profile_of = profile_of
        self._clock = clock

    async def CreateInstrument(
        self, request: instruments_pb2.CreateInstrumentRequest, context: Context
    ) -> instruments_pb2.CreateInstrumentResponse:
        """Saves the tokens and sets them up."""
        call = current_call()
        now = self._clock()
        instrument = SavedInstrument(
            instrument_id=derived(call, "ins", "CreateInstrument"),
            merchant_id=call.merchant_id,
            livemode=call.livemode,
            customer_id=request.customer_id,
            tokens=self._tokens(call, request),
            fingerprint=request.instrument.fingerprint,
            off_session=request.off_session,
            request_hash=request_hash(request.SerializeToString(deterministic=True)),
            create_time=now,
            update_time=now,
        )
        record = record_of_call(call, instrument.instrument_id, {}, instrument.facts(), now)
        saved = await self._setup.add(instrument, record)
        if saved.request_hash != instrument.request_hash:
            raise idempotency_key_reused()
        if saved.create_time != now:
            call.respond_with(headers={"idempotent-replayed": "true"})
        call.respond_with(
            http_status=201 if saved.is_finished else 202,
            headers={"location": f"/instruments/{saved.instrument_id}"},
        )
        return instruments_pb2.CreateInstrumentResponse(instrument=instrument_message(saved))

    async def GetInstrument(
        self, request: instruments_pb2.GetInstrumentRequest, context: Context
    ) -> instruments_pb2.GetInstrumentResponse:
        """Shows an instrument."""
        instrument = await self._instrument(request.instrument_id)
        return instruments_pb2.GetInstrumentResponse(instrument=instrument_message(instrument))

    async def ListInstruments(
        self, request: instruments_pb2.ListInstrumentsRequest, context: Context
    ) -> instruments_pb2.ListInstrumentsResponse:
        """Lists a customer's instruments."""
        call = current_call()
        tenant = (call.merchant_id, call.livemode, request.customer_id)
        if await self._store.get(*tenant) is None:
            raise customer_not_found()
        return instruments_pb2.ListInstrumentsResponse(
            instruments=[instrument_message(i) for i in await self._store.instruments(*tenant)]
        )

    async def ConfirmInstrument(
        self, request: instruments_pb2.ConfirmInstrumentRequest, context: Context
    ) -> instruments_pb2.ConfirmInstrumentResponse:
        """Goes on with a set-up."""
        instrument = await self._setup.go_on(await self._instrument(request.instrument_id))
        if not instrument.is_finished:
            current_call().respond_with(http_status=202)
        return instruments_pb2.ConfirmInstrumentResponse(instrument=instrument_message(instrument))

    async def DetachInstrument(
        self, request: instruments_pb2.DetachInstrumentRequest, context: Context
    ) -> instruments_pb2.DetachInstrumentResponse:
        """Removes an instrument."""
        call = current_call()
        before = await self._instrument(request.instrument_id)
        instrument = await self._setup.detach(
            before,
            lambda after: record_of_call(
                call, after.instrument_id, before.facts(), after.facts(), after.update_time
            ),
        )
        if not instrument.is_finished:
            call.respond_with(http_status=202)
        return instruments_pb2.DetachInstrumentResponse(instrument=instrument_message(instrument))

    def _tokens(
        self, call: Call, request: instruments_pb2.CreateInstrumentRequest
    ) -> tuple[SavedToken, ...]:
        profile = self._profile_of(call.merchant_id, call.livemode)
        assert profile is not None  # the interceptor lets no call of a stranger through
        given = request.instrument.tokens
        if len({t.processor_account_id for t in given}) != len(given):
            raise Refusal(
                Kind.INVALID_ARGUMENT,
                "FIELD_INVALID",
                "Two tokens are of one account.",
                remedy="Send one token per processor account.",
                field="instrument.tokens",
            )
        return tuple(
            SavedToken(
                processor_account_id=t.processor_account_id,
                processor=profile.account(t.processor_account_id).processor,
                token=t.token,
            )
            for t in given
        )

    async def _instrument(self, instrument_id: str) -> SavedInstrument:
        call = current_call()
        found = await self._store.instrument(call.merchant_id, call.livemode, instrument_id)
        if found is None:
            raise instrument_not_found()
        return found


def instrument_message(instrument: SavedInstrument) -> instruments_pb2.SavedInstrument:
    """Spells a saved instrument."""
    return instruments_pb2.SavedInstrument(
        instrument_id=instrument.instrument_id,
        customer_id=instrument.customer_id,
        tokens=[_token_message(t) for t in instrument.tokens],
        fingerprint=instrument.fingerprint,
        off_session=instrument.off_session,
        detached=instrument.detached,
        create_time=timestamp(instrument.create_time),
        update_time=timestamp(instrument.update_time),
    )


def _token_message(token: SavedToken) -> instruments_pb2.SavedToken:
    message = instruments_pb2.SavedToken(
        processor_account_id=token.processor_account_id,
        processor=PROCESSORS[token.processor],
        token=token.token,
        status=instruments_pb2.SavedToken.Status.Value(f"STATUS_{token.status.value}"),
        failure_code=token.failure_code,
    )
    if token.next_action is not None:
        redirect = payment_pb2.RedirectToUrl(url=token.next_action.url)
        message.next_action.redirect_to_url.CopyFrom(redirect)
    return message
