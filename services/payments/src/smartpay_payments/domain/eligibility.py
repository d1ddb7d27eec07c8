"""Which accounts may charge an order, and what stops a payment before any is asked."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.payment import (
    CaptureMethod,
    FraudOpinion,
    Initiator,
    Money,
    Order,
)

# Processors where the payer sends the money. It can't be held and taken later, nor fetched from
# somebody who isn't there.
PAYER_SENDS = frozenset({"solana"})
PAYER_SENDS_TOKEN = "solana_pay"  # the wallet that pays isn't known before, so all say the same


@dataclass(frozen=True, slots=True)
class Account:
    """One of the merchant's processor accounts, as far as the story needs it."""

    processor_account_id: str
    processor: str
    currencies: frozenset[str]
    enabled: bool


@dataclass(frozen=True, slots=True)
class MerchantTerms:
    """The merchant's own rules."""

    accounts: tuple[Account, ...]
    """In the merchant's own order, which decides when the router can't be asked."""
    blocks_when_fraud_is_away: bool
    blocks_what_needs_review: bool
    holds_what_needs_review: bool = False
    """A person looks first: the payment is in review until they decide."""
    charged_without_fraud: Mapping[str, int] = field(default_factory=dict)
    """Largest amount in minor units per currency that is charged when fraud is away, although
    others are blocked then."""
    attempts_max: int | None = None
    """Accounts tried for one payment; None leaves it to the service's own limit."""
    cascade_seconds: float | None = None
    """No further account is tried later than that; None leaves it to the service's own limit."""
    rewards_enabled: bool = True
    """False: what is captured earns no reward."""
    reward_vesting_seconds: int | None = None
    """How long a reward waits after the capture; None leaves it to rewards."""
    merchant_category: str = ""
    """What is sold, for fraud; "" when the merchant did not say."""

    capture_method: CaptureMethod = CaptureMethod.AUTOMATIC
    """For payments that leave it to the merchant's settings."""

    def processor_of(self, processor_account_id: str) -> str:
        """Names the processor of one of the accounts; raises StopIteration for another's."""
        return next(
            a.processor for a in self.accounts if a.processor_account_id == processor_account_id
        )


def check_tokens(order: Order, terms: MerchantTerms) -> None:
    """Refuses a token of an account that the merchant doesn't have."""
    known = {a.processor_account_id for a in terms.accounts}
    if not known.issuperset(order.tokens):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "NO_ELIGIBLE_ACCOUNT",
            "A token names a processor account that the merchant doesn't have.",
            remedy="Send tokens of the merchant's own processor accounts.",
            field="instrument.tokens",
        )
    sent = {a.processor_account_id for a in terms.accounts if a.processor in PAYER_SENDS}
    if any(order.tokens[account] != PAYER_SENDS_TOKEN for account in sent & order.tokens.keys()):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "NO_ELIGIBLE_ACCOUNT",
            f"The token of a Solana account is always {PAYER_SENDS_TOKEN}.",
            remedy=f"Send {PAYER_SENDS_TOKEN} as the account's token.",
            field="instrument.tokens",
        )
    obstacle = _what_no_payer_can_send(order)
    if obstacle and order.tokens and sent.issuperset(order.tokens):
        raise Refusal(
            Kind.FAILED_PRECONDITION,
            "NO_ELIGIBLE_ACCOUNT",
            "The payer sends the money on this rail: it is captured at once, and never without"
            " them.",
            remedy="Send capture_method automatic and initiator customer without off_session, or"
            " a token of another rail.",
            field=obstacle,
        )


def _what_no_payer_can_send(order: Order) -> str:
    """Names the field of an order that asks for more than a payer's own transfer can do."""
    if order.capture_method is not CaptureMethod.AUTOMATIC:
        return "capture_method"
    if order.initiator is not Initiator.CUSTOMER:
        return "initiator"
    return "off_session" if order.off_session else ""


def eligible_accounts(
    order: Order, terms: MerchantTerms, processors: Container[str]
) -> tuple[str, ...]:
    """Answers the accounts that can charge the order, in the merchant's own order.

    Args:
        order: says currency and tokens.
        terms: the merchant's accounts.
        processors: names of the processors that are served here.
    """
    return tuple(
        a.processor_account_id
        for a in terms.accounts
        if a.enabled
        and a.processor in processors
        and a.processor_account_id in order.tokens
        and order.amount.currency_code in a.currencies
        and not (a.processor in PAYER_SENDS and _what_no_payer_can_send(order))
    )


def no_eligible_account(field: str = "instrument") -> Refusal:
    """Refuses an order that no account can charge, or the account that was chosen for it."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "NO_ELIGIBLE_ACCOUNT",
        "No enabled account of the merchant charges this instrument in this currency.",
        remedy="Send a token of an enabled account that charges the currency.",
        field=field,
    )


def blocking_reason(
    opinion: FraudOpinion | None, terms: MerchantTerms, amount: Money | None = None
) -> str:
    """Says why fraud stops a payment; empty when it doesn't.

    Args:
        opinion: what fraud said; None when it could not be asked.
        terms: the merchant's rules.
        amount: what is to be charged, for the rules that hold when fraud is away.
    """
    if opinion is None:
        allowed = terms.charged_without_fraud.get(amount.currency_code, 0) if amount else 0
        small = amount is not None and amount.minor_units <= allowed
        return "fraud_unavailable" if terms.blocks_when_fraud_is_away and not small else ""
    if opinion.verdict == "BLOCK":
        return opinion.reason or "fraud"
    if opinion.verdict == "REVIEW" and terms.blocks_what_needs_review:
        return opinion.reason or "fraud_review"
    return ""


def holding_reason(opinion: FraudOpinion | None, terms: MerchantTerms) -> str:
    """Says why a person must look before a payment is charged; empty when nobody must."""
    if opinion is not None and opinion.verdict == "REVIEW" and terms.holds_what_needs_review:
        return opinion.reason or "fraud_review"
    return ""
