"""Which accounts may charge an order, and what stops a payment before any is asked."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.payment import FraudOpinion, Order


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
    )


def no_eligible_account() -> Refusal:
    """Refuses an order that no account can charge."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "NO_ELIGIBLE_ACCOUNT",
        "No enabled account of the merchant charges this instrument in this currency.",
        remedy="Send a token of an enabled account that charges the currency.",
        field="instrument",
    )


def blocking_reason(opinion: FraudOpinion | None, terms: MerchantTerms) -> str:
    """Says why fraud stops a payment; empty when it doesn't."""
    if opinion is None:
        return "fraud_unavailable" if terms.blocks_when_fraud_is_away else ""
    if opinion.verdict == "BLOCK":
        return opinion.reason or "fraud"
    if opinion.verdict == "REVIEW" and terms.blocks_what_needs_review:
        return opinion.reason or "fraud_review"
    return ""
