"""Stripe's published test cards, by the names that stand for them (docs.stripe.com/testing).

Each outcome is known by the last digits of its published number; full numbers are not kept, so
that no card number exists anywhere in this project. The `code` and `decline_code` of each card
are those of the testing page. `advice_code` and `network_decline_code` of the generic decline are
those seen in recorded answers; for the other cards they follow the ISO 8583 reason of the decline
and the meaning that docs.stripe.com/declines/card gives to the advice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

NO_AUTHENTICATION = "none"
ALWAYS = "always"
UNLESS_SET_UP = "unless_set_up"


@dataclass(frozen=True)
class Decline:
    """Why an issuer (or Radar, when `blocked`) says no."""

    code: str
    message: str
    decline_code: str | None = None
    advice_code: str | None = None
    network_decline_code: str | None = None
    blocked: bool = False


@dataclass(frozen=True)
class TestCard:
    """One test card: how it looks, and how a charge of it ends."""

    __test__ = False  # a name pytest must not collect

    brand: str
    last4: str
    funding: str = "credit"
    country: str = "US"
    decline: Decline | None = None
    authentication: str = NO_AUTHENTICATION
    dispute: str = ""
    """Why the payer's bank claims each captured charge back; empty when it does not."""

    @property
    def fingerprint(self) -> str:
        """Stable for the card number, on every account of the sandbox; 16 characters."""
        number = f"{self.brand}/{self.funding}/{self.country}/{self.last4}"
        return hashlib.sha256(f"card:{number}".encode()).hexdigest()[:16]


_AGAIN, _NEVER, _CHECK = "try_again_later", "do_not_try_again", "confirm_card_data"
_NO = "Your card was declined."

GENERIC = Decline("card_declined", _NO, "generic_decline", _AGAIN, "01")
INSUFFICIENT_FUNDS = Decline(
    "card_declined", "Your card has insufficient funds.", "insufficient_funds", _AGAIN, "51"
)
LOST = Decline("card_declined", _NO, "lost_card", _NEVER, "41")
STOLEN = Decline("card_declined", _NO, "stolen_card", _NEVER, "43")
EXPIRED = Decline("expired_card", "Your card has expired.", None, _CHECK, "54")
INCORRECT_CVC = Decline(
    "incorrect_cvc", "Your card's security code is incorrect.", None, _CHECK, "N7"
)
PROCESSING_ERROR = Decline(
    "processing_error",
    "An error occurred while processing your card. Try again in a little bit.",
    None,
    _AGAIN,
    "96",
)
VELOCITY = Decline(
    "card_declined",
    "Your card was declined for making repeated attempts too frequently "
    "or exceeding its amount limit.",
    "card_velocity_exceeded",
    _AGAIN,
    "65",
)
RADAR = Decline("card_declined", _NO, "fraudulent", _NEVER, None, blocked=True)
AUTHENTICATION_REQUIRED = Decline(
    "authentication_required",
    "Your card was declined. This transaction requires authentication.",
    "authentication_required",
    None,
    "1A",
)
"""How an off-session charge of a card that wants 3-D Secure ends."""

_VISA_DECLINED = TestCard("visa", "0002", decline=GENERIC)
_VISA_INSUFFICIENT = TestCard("visa", "9995", decline=INSUFFICIENT_FUNDS)
_VISA_LOST = TestCard("visa", "9987", decline=LOST)
_VISA_STOLEN = TestCard("visa", "9979", decline=STOLEN)
_VISA_VELOCITY = TestCard("visa", "6975", decline=VELOCITY)

_BY_SUFFIX = {
    "visa": TestCard("visa", "4242"),
    "us": TestCard("visa", "4242"),
    "visa_debit": TestCard("visa", "5556", "debit"),
    "mastercard": TestCard("mastercard", "4444"),
    "mastercard_debit": TestCard("mastercard", "8210", "debit"),
    "mastercard_prepaid": TestCard("mastercard", "5100", "prepaid"),
    "amex": TestCard("amex", "0005"),
    "discover": TestCard("discover", "1117"),
    "diners": TestCard("diners", "0004"),
    "jcb": TestCard("jcb", "0505", country="JP"),
    "unionpay": TestCard("unionpay", "0005", country="CN"),
    # The page spells most declines with the brand; older pages, and many callers, without it.
    "visa_chargeDeclined": _VISA_DECLINED,
    "chargeDeclined": _VISA_DECLINED,
    "visa_chargeDeclinedInsufficientFunds": _VISA_INSUFFICIENT,
    "chargeDeclinedInsufficientFunds": _VISA_INSUFFICIENT,
    "visa_chargeDeclinedLostCard": _VISA_LOST,
    "chargeDeclinedLostCard": _VISA_LOST,
    "visa_chargeDeclinedStolenCard": _VISA_STOLEN,
    "chargeDeclinedStolenCard": _VISA_STOLEN,
    "visa_chargeDeclinedVelocityLimitExceeded": _VISA_VELOCITY,
    "chargeDeclinedVelocityLimitExceeded": _VISA_VELOCITY,
    "chargeDeclinedExpiredCard": TestCard("visa", "0069", decline=EXPIRED),
    "chargeDeclinedIncorrectCvc": TestCard("visa", "0127", decline=INCORRECT_CVC),
    "chargeDeclinedProcessingError": TestCard("visa", "0119", decline=PROCESSING_ERROR),
    "chargeCustomerFail": TestCard("visa", "0341", decline=GENERIC),
    "radarBlock": TestCard("visa", "0019", decline=RADAR),
    "authenticationRequired": TestCard("visa", "3184", country="DE", authentication=ALWAYS),
    "authenticationRequiredOnSetup": TestCard(
        "visa", "3155", country="FR", authentication=UNLESS_SET_UP
    ),
    "threeDSecure2Required": TestCard("visa", "3220", authentication=ALWAYS),
    "threeDSecureRequiredChargeDeclined": TestCard(
        "visa", "1629", decline=GENERIC, authentication=ALWAYS
    ),
    "threeDSecureOptional": TestCard("visa", "3055"),
    "createDispute": TestCard("visa", "0259", dispute="fraudulent"),
    "createDisputeProductNotReceived": TestCard("visa", "2685", dispute="product_not_received"),
}

PAYMENT_METHOD_ALIASES = {f"pm_card_{suffix}": card for suffix, card in _BY_SUFFIX.items()}
"""Names usable as a `payment_method` on every account."""

TOKEN_ALIASES = {f"tok_{suffix}": card for suffix, card in _BY_SUFFIX.items()}
"""Names usable as `card[token]` on every account."""

CARD_BY_FINGERPRINT = {card.fingerprint: card for card in _BY_SUFFIX.values()}
"""Finds the card behind a stored PaymentMethod."""
