"""Saved instruments: tokens that a customer may be charged with again, and their set-up.

A processor's token is single-use until it is tied to a customer there, and may be refused without
the payer unless it was set up for that. Setting up moves no money, so that a set-up whose answer
was lost is simply asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.payment import NextAction, Order

# A wallet full of cards; a list of them is one answer.
INSTRUMENTS_MAX = 16
# Their payers send money by themselves, so that there is nothing to be saved.
NOTHING_TO_SAVE = frozenset({"solana"})


class TokenStatus(StrEnum):
    """Where a token stands; the names are the contract's."""

    SETTING_UP = "SETTING_UP"
    REQUIRES_ACTION = "REQUIRES_ACTION"
    READY = "READY"
    FAILED = "FAILED"
    DETACHED = "DETACHED"


# Something may still be asked of the processor.
UNFINISHED = frozenset({TokenStatus.SETTING_UP, TokenStatus.REQUIRES_ACTION})


@dataclass(frozen=True, slots=True)
class SavedToken:
    """A token of an instrument at one account."""

    processor_account_id: str
    processor: str
    token: str
    status: TokenStatus = TokenStatus.SETTING_UP
    setup_id: str = ""
    """The processor's id of the set-up, for instance seti_..., once it named one."""
    tries: int = 0
    """Part of the set-up's key: a set-up that failed for good is begun anew under another one."""
    failure_code: str = ""
    next_action: NextAction | None = None


@dataclass(frozen=True, slots=True)
class SavedInstrument:
    """One instrument of a customer, as the accounts that may charge it know it."""

    instrument_id: str
    merchant_id: str
    livemode: bool
    customer_id: str
    tokens: tuple[SavedToken, ...]
    fingerprint: str
    off_session: bool
    """True when it is to be charged while the payer is away."""
    request_hash: str
    """Of the request that saved it."""
    create_time: datetime
    update_time: datetime
    detached: bool = False
    version: int = 1

    @property
    def is_finished(self) -> bool:
        """True once nothing is left to be asked of the processors."""
        if self.detached:
            return all(t.status is TokenStatus.DETACHED for t in self.tokens)
        return not any(t.status in UNFINISHED for t in self.tokens)

    def with_token(self, token: SavedToken, now: datetime) -> SavedInstrument:
        """Answers the next version with one token replaced by its account."""
        tokens = tuple(
            token if t.processor_account_id == token.processor_account_id else t
            for t in self.tokens
        )
        return replace(self, tokens=tokens, update_time=now, version=self.version + 1)

    def facts(self) -> dict[str, object]:
        """Lists what the audit trail may hold: never the tokens."""
        return {
            "detached": self.detached,
            "off_session": self.off_session,
            **{f"status.{t.processor_account_id}": t.status.value for t in self.tokens},
        }


@dataclass(frozen=True, slots=True)
class Chargeable:
    """What a payment needs of a saved instrument."""

    tokens: dict[str, str]
    """Token by processor account id."""
    payers: dict[str, str]
    """The processors' own id of the customer by account, where they have one."""
    fingerprint: str
    customer_id: str


def tokens_of(
    instrument: SavedInstrument, payers: Mapping[str, str], *, payer_is_away: bool
) -> Chargeable:
    """Answers what of an instrument can be charged.

    Args:
        instrument: as stored.
        payers: the customer's ids at the processors, by account.
        payer_is_away: True for an off-session or merchant-initiated payment, which needs an
            instrument that was set up for it.

    Raises:
        Refusal: INSTRUMENT_NOT_READY when no token can be charged this way.
    """
    usable = instrument.off_session or not payer_is_away
    ready = [t for t in instrument.tokens if t.status is TokenStatus.READY]
    if instrument.detached or not usable or not ready:
        raise Refusal(
            Kind.FAILED_PRECONDITION,
            "INSTRUMENT_NOT_READY",
            "No token of the instrument can be charged this way.",
            remedy="Read the instrument to see where its tokens stand; for charges without the"
            " payer save it with off_session.",
            field="instrument_id",
        )
    return Chargeable(
        tokens={t.processor_account_id: t.token for t in ready},
        payers={
            t.processor_account_id: payers[t.processor_account_id]
            for t in ready
            if t.processor_account_id in payers
        },
        fingerprint=instrument.fingerprint,
        customer_id=instrument.customer_id,
    )


def with_instrument(order: Order, instrument_id: str, found: Chargeable) -> Order:
    """Answers an order that charges a saved instrument, for the customer it belongs to.

    Raises:
        Refusal: INSTRUMENT_NOT_FOUND when the order names another customer.
    """
    if order.customer_id not in ("", found.customer_id):
        raise instrument_not_found()
    return replace(
        order,
        tokens=found.tokens,
        payers=found.payers,
        fingerprint=found.fingerprint,
        customer_id=found.customer_id,
        instrument_id=instrument_id,
    )


# ---- what a processor is asked ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetupOutcome:
    """What a processor said of a set-up; SETTING_UP when it gave no usable answer."""

    status: TokenStatus
    setup_id: str = ""
    failure_code: str = ""
    next_action: NextAction | None = None


@runtime_checkable
class Vault(Protocol):
    """A processor that ties tokens to customers of its own.

    No call raises for what the processor or the network does. Each may be repeated with the same
    key and is then the same call.
    """

    async def open_payer(self, processor_account_id: str, reference: str) -> str:
        """Makes the processor's own customer; answers its id, "" when it gave no usable answer.

        Args:
            processor_account_id: where.
            reference: our id of the customer, which is also the key; nothing personal.
        """
        ...

    async def set_up(
        self, token: SavedToken, payer: str, key: str, *, off_session: bool
    ) -> SetupOutcome:
        """Ties a token to a customer of the processor; off_session clears it for renewals."""
        ...

    async def look_at_setup(self, token: SavedToken) -> SetupOutcome:
        """Reads how a set-up with a known id stands."""
        ...

    async def detach(self, token: SavedToken) -> bool:
        """Unties a token; answers whether it is surely untied now."""
        ...

    async def close_payer(self, processor_account_id: str, payer: str) -> bool:
        """Removes the processor's own customer with all it knows; answers whether it is gone."""
        ...


def token_after(token: SavedToken, outcome: SetupOutcome) -> SavedToken:
    """Answers a token after what the processor said."""
    return replace(
        token,
        status=outcome.status,
        setup_id=outcome.setup_id or token.setup_id,
        failure_code=outcome.failure_code,
        next_action=outcome.next_action,
    )


def check_processors(processors: Iterable[str]) -> None:
    """Refuses tokens of a rail where nothing can be saved."""
    if NOTHING_TO_SAVE.intersection(processors):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "INSTRUMENT_UNSUPPORTED",
            "On this rail the payer sends the money, so there is no token to be saved.",
            remedy="Save tokens of cards and wallets; ask for a transfer with each payment.",
            field="instrument.tokens",
        )


def instrument_not_found(field_name: str = "instrument_id") -> Refusal:
    """Refuses an instrument that is not the merchant's, or not at all; the two read the same."""
    return Refusal(
        Kind.NOT_FOUND,
        "INSTRUMENT_NOT_FOUND",
        "There is no such saved instrument.",
        remedy="List the customer's instruments, and name one of them.",
        field=field_name,
    )
