"""Declines: after which ones another account may be tried."""

from __future__ import annotations

# Codes of https://docs.stripe.com/declines/codes where the cause lies between processor and
# issuer, so that another account may well succeed. Every other code speaks of the card or the
# payer, and another try would only annoy them or look like fraud. The last three are Amazon Pay's
# (https://developer.amazon.com/docs/amazon-pay-api-v2/charge.html), written as ours are.
SOFT_CODES = frozenset(
    {
        "approve_with_id",
        "call_issuer",
        "do_not_honor",
        "generic_decline",
        "issuer_not_available",
        "no_action_taken",
        "processing_error",
        "reenter_transaction",
        "service_not_allowed",
        "try_again_later",
        "transaction_not_allowed",
        "processing_failure",
        "soft_declined",
        "transaction_timed_out",
    }
)
# https://docs.stripe.com/declines/codes#advice-codes: the issuer's own word wins over the code.
HARD_ADVICE = frozenset({"do_not_try_again", "confirm_card_data"})


def is_soft(decline_code: str, advice_code: str = "") -> bool:
    """Tells whether another account may be tried; an unknown code never allows it."""
    return decline_code in SOFT_CODES and advice_code not in HARD_ADVICE
