"""Where Stripe counts a currency otherwise than ISO 4217 (https://docs.stripe.com/currencies).

Icelandic krona and Ugandan shilling have no decimals and are still written with two; the Malagasy
ariary has two and is written with none. All else is the same.
"""

from __future__ import annotations

from smartpay_chassis.refusals import Kind, Refusal

_WRITTEN_WITH_TWO_MORE = frozenset({"ISK", "UGX"})
_WRITTEN_WITH_TWO_LESS = frozenset({"MGA"})


def to_stripe(minor_units: int, currency_code: str) -> int:
    """Spells an amount as Stripe counts it.

    Raises:
        Refusal: FIELD_INVALID when the amount is finer than Stripe takes it.
    """
    if currency_code in _WRITTEN_WITH_TWO_MORE:
        return minor_units * 100
    if currency_code in _WRITTEN_WITH_TWO_LESS:
        if minor_units % 100:
            raise Refusal(
                Kind.INVALID_ARGUMENT,
                "FIELD_INVALID",
                f"Stripe takes {currency_code} in whole units only.",
                remedy="Send an amount whose minor units end in 00, or another account.",
                field="amount",
            )
        return minor_units // 100
    return minor_units


def from_stripe(amount: int, currency: str) -> int:
    """Reads an amount of Stripe's as minor units; the currency may be in lower case."""
    code = currency.upper()
    if code in _WRITTEN_WITH_TWO_MORE:
        # Fees may have parts of a unit; half a unit goes up.
        return (amount + 50) // 100
    if code in _WRITTEN_WITH_TWO_LESS:
        return amount * 100
    return amount
