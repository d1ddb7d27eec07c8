"""The life of one reward, and what the chain must be able to do for it.

NEW -> SENT -> FINAL, with PARKED (held, never lost) and CANCELED (refunded before it vested) aside.
Minting twice is impossible by the chain itself: the mint and a receipt account that can exist only
once are one transaction. So this store is a work list: it may be lost, and sending again is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from smartpay_rewards.domain.reward import SettledPayment, Terms

WALLET_MISSING = "WALLET_MISSING: the payment names no wallet and there is no default."
WALLET_UNUSABLE = "WALLET_INVALID: the wallet can't hold tokens."
RECEIPT_FOREIGN = "RECEIPT_FOREIGN: the receipt exists, but no transaction of it minted."
# A refusal by the chain's own rules is final after this many tries with fresh transactions.
REFUSALS_MAX = 5


class State(StrEnum):
    """Where a reward stands."""

    NEW = "NEW"
    SENT = "SENT"
    FINAL = "FINAL"
    PARKED = "PARKED"
    CANCELED = "CANCELED"


class Step(StrEnum):
    """What is to be done with a reward now."""

    SETTLE = "SETTLE"
    SEND = "SEND"
    WAIT = "WAIT"
    PARK = "PARK"
    CANCEL = "CANCEL"


@dataclass(frozen=True)
class RewardKey:
    """Whose reward it is."""

    merchant_id: str
    livemode: bool
    payment_id: str


@dataclass(frozen=True)
class Reward:
    """One reward as stored.

    Attributes:
        payment: what it rewards, as last told; nothing is sent before its mark is known.
        token_base_units: what is, or will be, minted; 0 when nothing is left to reward.
        wallet: base58 address; "" when none is known.
        granted_wallet: the wallet a grant asked for; it goes before the payment's own.
        rate: USD per unit of the currency by which it was computed, as an exact ratio.
        hold: why it must not be sent; shown as the reason when parked.
        attempts: transactions signed for it so far.
        signature: of the newest transaction, or once FINAL of the one that minted.
        look_time: when to look at it next.
        resend_time: from when on it may be sent again.
    """

    payment: SettledPayment
    state: State
    token_base_units: int
    wallet: str
    granted_wallet: str
    rate: str
    hold: str
    attempts: int
    signature: str
    create_time: datetime
    look_time: datetime
    resend_time: datetime
    final_time: datetime | None

    @property
    def key(self) -> RewardKey:
        """Whose it is."""
        payment = self.payment
        return RewardKey(payment.merchant_id, payment.livemode, payment.payment_id)

    @property
    def sent_once(self) -> bool:
        """Whether a transaction may be on its way, so that wallet and amount are fixed."""
        return self.attempts > 0 or self.state is State.FINAL


@dataclass(frozen=True)
class MintOrder:
    """What one transaction must do."""

    payment_id: str
    wallet: str
    token_base_units: int


@dataclass(frozen=True)
class Prepared:
    """A signed transaction that has not been sent; its signature is known before."""

    signature: str
    wire: bytes


@dataclass(frozen=True)
class Minted:
    """What the chain says was minted under a receipt."""

    signature: str
    wallet: str
    token_base_units: int


@dataclass(frozen=True)
class ChainIdentity:
    """What must never change under a store: another chain, mint, issuer or key mints anew."""

    genesis_hash: str
    mint: str
    issuer: str
    receipt_key_digest: str


class ChainUnsureError(Exception):
    """The chain gave no usable answer: the call may or may not have taken effect."""


class AlreadyMarkedError(Exception):
    """The receipt exists, so the reward was minted, perhaps by an earlier life of this store."""


class ChainRefusedError(Exception):
    """The chain refused a transaction and did nothing; the text says why."""

    def __init__(self, reason: str, *, by_rule: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.by_rule = by_rule
        """True when a program refused, so that the same order will be refused again."""


class ReceiptForeignError(Exception):
    """A receipt exists that no minting transaction made."""


class WrongChainError(Exception):
    """The chain is not the one this store belongs to; the text says what differs."""


class Chain(Protocol):
    """What rewards needs of a blockchain. Every call may raise ChainUnsureError."""

    async def identity(self) -> ChainIdentity:
        """Ask the chain who it is; raises WrongChainError when the mint is not usable here."""
        ...

    def receipt_address(self, payment_id: str) -> str:
        """Return the address that can exist once, for this payment."""
        ...

    def can_hold(self, wallet: str) -> bool:
        """Whether an address can own tokens and is none of ours."""
        ...

    async def marked(self, payment_ids: Sequence[str]) -> frozenset[str]:
        """Return the payments whose receipt exists finally."""
        ...

    async def landed(self, signatures: Collection[str]) -> frozenset[str]:
        """Return the transactions that are final and without error."""
        ...

    async def minted(self, payment_id: str) -> Minted | None:
        """Read what a final receipt's transaction minted; None when history lags behind.

        Raises:
            ReceiptForeignError: no transaction of the receipt minted.
        """
        ...

    async def prepare(self, order: MintOrder) -> Prepared:
        """Sign the one transaction that marks and mints."""
        ...

    async def submit(self, prepared: Prepared) -> None:
        """Send it.

        Raises:
            AlreadyMarkedError: the receipt exists.
            ChainRefusedError: it was refused and did nothing.
        """
        ...


Decide = Callable[["Reward | None"], "Reward | None"]


@dataclass(frozen=True)
class GrantRequest:
    """What makes a grant the same call again."""

    idempotency_key: str
    body_digest: str


@dataclass(frozen=True)
class Changed:
    """The outcome of one atomic change."""

    reward: Reward | None
    replayed: bool = False


class RewardStore(Protocol):
    """The work list. Each method is one atomic unit."""

    async def change(
        self,
        key: RewardKey,
        decide: Decide,
        *,
        cursor: str | None = None,
        request: GrantRequest | None = None,
    ) -> Changed:
        """Read a reward, decide, and write what comes out, with the event cursor if given.

        Raises:
            Refusal: IDEMPOTENCY_KEY_REUSED when the request's key came with another body.
        """
        ...

    async def get(self, key: RewardKey) -> Reward | None:
        """Return one reward."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, after: tuple[datetime, str] | None, limit: int
    ) -> list[Reward]:
        """Return a tenant's rewards, newest first, after a (create_time, payment_id)."""
        ...

    async def due(self, now: datetime, limit: int) -> list[Reward]:
        """Return rewards to look at now, longest waiting first."""
        ...

    async def resume(self, renew: Callable[[Reward], Reward]) -> None:
        """After a restart, renew everything that is SENT or PARKED."""
        ...

    async def cursor(self) -> str:
        """Return the cursor of the last event applied; "" before the first."""
        ...

    async def save_cursor(self, cursor: str) -> None:
        """Remember a cursor whose event changed nothing."""
        ...

    async def pin(self, identity: ChainIdentity) -> ChainIdentity:
        """Remember the chain at first use and return the one remembered."""
        ...


@dataclass(frozen=True)
class Rules:
    """How payments become rewards here."""

    terms: Terms
    default_wallet: str
    can_hold: Callable[[str], bool]

    def apply(
        self, existing: Reward | None, payment: SettledPayment, now: datetime, granted: str = ""
    ) -> Reward:
        """Make or renew the reward of a settled payment, or leave one alone that was sent.

        An event that is not newer changes nothing.
        """
        if existing is None:
            return self._quoted(payment, granted, now, now)
        if existing.sent_once or payment.sequence <= existing.payment.sequence:
            return existing
        # A later event must not move the moment from which vesting counts.
        settle_time = min(payment.settle_time, existing.payment.settle_time)
        payment = replace(payment, settle_time=settle_time)
        return self._quoted(payment, existing.granted_wallet, existing.create_time, now)

    def with_wallet(self, reward: Reward, wallet: str, now: datetime) -> Reward:
        """Point an unsent reward to another wallet."""
        return self._quoted(reward.payment, wallet, reward.create_time, now)

    def resumed(self, reward: Reward, now: datetime) -> Reward:
        """Try again what was parked or sent, by the terms in force now."""
        if reward.state is State.PARKED and not reward.sent_once:
            return self._quoted(reward.payment, reward.granted_wallet, reward.create_time, now)
        if reward.state in (State.PARKED, State.SENT):
            return replace(reward, state=State.SENT, hold="", look_time=now, resend_time=now)
        return reward

    def _quoted(
        self, payment: SettledPayment, granted: str, create_time: datetime, now: datetime
    ) -> Reward:
        quote = self.terms.quote(payment)
        wallet = granted or payment.wallet or self.default_wallet
        first_look = max(now, quote.due_time)
        return Reward(
            payment=payment,
            state=State.NEW,
            token_base_units=quote.token_base_units,
            wallet=wallet,
            granted_wallet=granted,
            rate=quote.rate,
            hold=quote.hold or self._wallet_hold(wallet),
            attempts=0,
            signature="",
            create_time=create_time,
            look_time=first_look,
            resend_time=first_look,
            final_time=None,
        )

    def _wallet_hold(self, wallet: str) -> str:
        if not wallet:
            return WALLET_MISSING
        return "" if self.can_hold(wallet) else WALLET_UNUSABLE


def next_step(reward: Reward, marked: bool, now: datetime) -> Step:
    """Decide what to do; the chain's receipt is asked first, because it alone knows."""
    if marked:
        return Step.SETTLE
    if reward.state is State.SENT:
        return Step.SEND if now >= reward.resend_time else Step.WAIT
    if reward.hold:
        return Step.PARK
    return Step.SEND if reward.token_base_units > 0 else Step.CANCEL


def sent(reward: Reward, signature: str, look_time: datetime, resend_time: datetime) -> Reward:
    """Record a transaction before it is sent."""
    return replace(
        reward,
        state=State.SENT,
        signature=signature,
        attempts=reward.attempts + 1,
        look_time=look_time,
        resend_time=resend_time,
    )


def finalized(reward: Reward, minted: Minted, now: datetime) -> Reward:
    """Record what the chain says; it wins over what was computed here."""
    return replace(
        reward,
        state=State.FINAL,
        signature=minted.signature,
        wallet=minted.wallet,
        token_base_units=minted.token_base_units,
        hold="",
        final_time=now,
    )


def parked(reward: Reward, reason: str) -> Reward:
    """Hold a reward back, with the reason."""
    return replace(reward, state=State.PARKED, hold=reason)


def canceled(reward: Reward) -> Reward:
    """End a reward of which refunds left nothing."""
    return replace(reward, state=State.CANCELED)


def postponed(reward: Reward, look_time: datetime, resend_time: datetime | None = None) -> Reward:
    """Look again later, and if given, let it be sent again from then on."""
    return replace(reward, look_time=look_time, resend_time=resend_time or reward.resend_time)


def backoff(attempts: int, first: timedelta, longest: timedelta) -> timedelta:
    """Return how long to wait after this many tries: doubling up to the longest."""
    doublings: int = 2 ** min(max(attempts - 1, 0), 20)
    return min(longest, first * doublings)


def difference(pinned: ChainIdentity, seen: ChainIdentity) -> Mapping[str, tuple[str, str]]:
    """Return what differs between two identities: name to (pinned, seen)."""
    pairs = {name: (getattr(pinned, name), getattr(seen, name)) for name in vars(pinned)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
