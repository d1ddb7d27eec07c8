"""The story of a saved instrument: stored, set up at each account, and one day detached.

Nothing is asked of a processor before the intent is stored. A set-up moves no money, so what got
no answer is asked again under the same key, by whoever looks next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.customers import Customer, customer_not_found
from smartpay_payments.domain.instruments import (
    UNFINISHED,
    Chargeable,
    SavedInstrument,
    SavedToken,
    SetupOutcome,
    TokenStatus,
    Vault,
    check_processors,
    instrument_not_found,
    token_after,
    tokens_of,
)

# Processors forget a key after 24 h; the same key later would be a second set-up unawares.
KEY_LIFE = timedelta(hours=23)
# Each loss means that somebody else's change was stored.
TRIES = 8


class InstrumentStore(Protocol):
    """Keeps customers and instruments. Each method is one unit of work."""

    async def get(self, merchant_id: str, livemode: bool, customer_id: str) -> Customer | None:
        """Reads one customer of one merchant."""
        ...

    async def save(self, customer: Customer, record: AuditRecord | None = None) -> bool:
        """Stores a customer's next version; answers False when somebody else was faster."""
        ...

    async def add_instrument(
        self, instrument: SavedInstrument, record: AuditRecord
    ) -> SavedInstrument | None:
        """Stores a new instrument; answers the one that holds the id, if there is one."""
        ...

    async def save_instrument(
        self, instrument: SavedInstrument, record: AuditRecord | None = None
    ) -> bool:
        """Stores an instrument's next version; answers False when somebody else was faster."""
        ...

    async def instrument(
        self, merchant_id: str, livemode: bool, instrument_id: str
    ) -> SavedInstrument | None:
        """Reads one instrument of one merchant."""
        ...

    async def instruments(
        self, merchant_id: str, livemode: bool, customer_id: str
    ) -> Sequence[SavedInstrument]:
        """Reads a customer's instruments that are not detached, newest first."""
        ...


class InstrumentSetup:
    """Moves saved instruments on.

    Args:
        store: keeps customers and instruments.
        vaults: by processor, for those that must be told; elsewhere a token is ready as it is.
        clock: the time, aware.
    """

    def __init__(
        self,
        store: InstrumentStore,
        vaults: Mapping[str, Vault],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._vaults = vaults
        self._clock = clock

    async def add(self, instrument: SavedInstrument, record: AuditRecord) -> SavedInstrument:
        """Stores a new instrument and sets it up; answers the one that holds its id, if any.

        Raises:
            Refusal: INSTRUMENT_UNSUPPORTED, CUSTOMER_NOT_FOUND or LIMIT_REACHED.
        """
        check_processors(t.processor for t in instrument.tokens)
        held = await self._store.add_instrument(instrument, record)
        return held or await self.go_on(instrument)

    async def go_on(self, instrument: SavedInstrument) -> SavedInstrument:
        """Asks the processors whatever is still open of a set-up or removal."""
        if instrument.detached:
            open_tokens = [t for t in instrument.tokens if t.status is not TokenStatus.DETACHED]
            step = self._detach
        else:
            open_tokens = [t for t in instrument.tokens if t.status in UNFINISHED]
            step = self._set_up
        await asyncio.gather(*(step(instrument, token) for token in open_tokens))
        return await self._present(instrument)

    async def detach(
        self, instrument: SavedInstrument, record: Callable[[SavedInstrument], AuditRecord]
    ) -> SavedInstrument:
        """Removes an instrument here, then at the processors.

        Args:
            instrument: as stored.
            record: makes the audit record out of the version that is about to be stored.

        Raises:
            Refusal: ABORTED when others change it all the time.
        """
        for _ in range(TRIES):
            if instrument.detached:
                return await self.go_on(instrument)
            detached = replace(
                instrument,
                detached=True,
                version=instrument.version + 1,
                update_time=self._clock(),
            )
            if await self._store.save_instrument(detached, record(detached)):
                await self._forget_default(detached)
                return await self.go_on(detached)
            instrument = await self._present(instrument)
        raise changed_meanwhile()

    async def chargeable(
        self, merchant_id: str, livemode: bool, instrument_id: str, *, payer_is_away: bool
    ) -> Chargeable:
        """Answers what a payment charges for an instrument_id.

        Args:
            merchant_id: the tenant.
            livemode: the tenant's mode.
            instrument_id: as the request names it.
            payer_is_away: True for an off-session or merchant-initiated payment.

        Raises:
            Refusal: INSTRUMENT_NOT_FOUND or INSTRUMENT_NOT_READY.
        """
        instrument = await self._store.instrument(merchant_id, livemode, instrument_id)
        if instrument is None:
            raise instrument_not_found()
        customer = await self._store.get(merchant_id, livemode, instrument.customer_id)
        if customer is None:
            raise instrument_not_found()
        return tokens_of(instrument, customer.payers, payer_is_away=payer_is_away)

    async def _set_up(self, instrument: SavedInstrument, token: SavedToken) -> None:
        vault = self._vaults.get(token.processor)
        if vault is None:
            await self._store_token(instrument, token, SetupOutcome(TokenStatus.READY))
            return
        if token.setup_id:
            await self._store_token(instrument, token, await vault.look_at_setup(token))
            return
        payer = await self._payer(instrument, token.processor_account_id, vault)
        if not payer:
            return
        if self._clock() - instrument.create_time > KEY_LIFE * (token.tries + 1):
            token = replace(token, tries=token.tries + 1)
            await self._store_token(instrument, token, SetupOutcome(TokenStatus.SETTING_UP))
        key = f"{instrument.instrument_id}-{token.processor_account_id}-{token.tries}"
        outcome = await vault.set_up(token, payer, key, off_session=instrument.off_session)
        await self._store_token(instrument, token, outcome)

    async def _payer(self, instrument: SavedInstrument, account: str, vault: Vault) -> str:
        """Answers the processor's id of the customer, made if need be; "" when nobody answers."""
        made = ""
        for _ in range(TRIES):
            customer = await self._store.get(
                instrument.merchant_id, instrument.livemode, instrument.customer_id
            )
            if customer is None:
                raise customer_not_found()
            if account in customer.payers:
                return customer.payers[account]
            made = made or await vault.open_payer(account, customer.reference)
            if not made:
                return ""
            changed = replace(
                customer,
                payers={**customer.payers, account: made},
                version=customer.version + 1,
            )
            if await self._store.save(changed):
                return made
        raise changed_meanwhile()

    async def _detach(self, instrument: SavedInstrument, token: SavedToken) -> None:
        vault = self._vaults.get(token.processor)
        if vault is None or await vault.detach(token):
            await self._store_token(instrument, token, SetupOutcome(TokenStatus.DETACHED))

    async def _store_token(
        self, instrument: SavedInstrument, token: SavedToken, outcome: SetupOutcome
    ) -> None:
        """Stores what became of one token; those of other accounts may change meanwhile."""
        for _ in range(TRIES):
            present = await self._present(instrument)
            changed = present.with_token(token_after(token, outcome), self._clock())
            if changed.tokens == present.tokens or await self._store.save_instrument(changed):
                return
        raise changed_meanwhile()

    async def _forget_default(self, instrument: SavedInstrument) -> None:
        for _ in range(TRIES):
            customer = await self._store.get(
                instrument.merchant_id, instrument.livemode, instrument.customer_id
            )
            if customer is None or customer.default_instrument_id != instrument.instrument_id:
                return
            if await self._store.save(customer.changed(self._clock(), default_instrument_id="")):
                return
        raise changed_meanwhile()

    async def _present(self, instrument: SavedInstrument) -> SavedInstrument:
        found = await self._store.instrument(
            instrument.merchant_id, instrument.livemode, instrument.instrument_id
        )
        if found is None:
            # The customer was erased meanwhile.
            raise instrument_not_found()
        return found


def changed_meanwhile() -> Refusal:
    """Refuses a change that lost too many races."""
    return Refusal(
        Kind.ABORTED,
        "ETAG_MISMATCH",
        "Others change it at the same time.",
        remedy="Read it and decide again.",
    )
