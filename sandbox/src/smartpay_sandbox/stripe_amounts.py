"""What amounts Stripe takes: currencies, least and greatest charges, and its fee.

Sources: docs.stripe.com/currencies (supported currencies, three-decimal rule, minimum and maximum
charge amounts). Amounts are whole numbers of the currency's smallest unit everywhere.
"""

from __future__ import annotations

from smartpay_sandbox.stripe_refusals import invalid

_CODES = """
usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp
byn bzd cad cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip
gmd gnf gtq gyd hkd hnl htg huf idr ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt
lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr
nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd
std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer
zar zmw
"""
CURRENCIES = frozenset(_CODES.split())
"""ISO 4217 codes a card charge may be presented in, lower case as on the wire."""

THREE_DECIMALS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
"""Currencies whose amounts must end in 0, since the networks settle two decimals of them."""

LEAST = {
    "usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500,
    "dkk": 250, "eur": 50, "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000,
    "myr": 200, "nok": 300, "nzd": 50, "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}  # fmt: skip
"""The published minimum charge of each settlement currency; others have no minimum here."""

GREATEST = 99_999_999
"""Eight digits; Rupiah alone takes twelve."""
GREATEST_IDR = 999_999_999_999

FEE_PERMILLE = 29
FEE_FIXED = 30
"""2.9 % and 30 smallest units: the published United States card price, used for every currency."""


def check_currency(currency: str) -> str:
    """Return the code in lower case.

    Raises:
        StripeRefusalError: 400 naming `currency` if Stripe does not know it.
    """
    code = currency.lower()
    if code not in CURRENCIES:
        raise invalid(
            f"Invalid currency: {code}. Stripe currently supports these currencies: "
            f"{', '.join(sorted(CURRENCIES))}",
            param="currency",
        )
    return code


def check_positive(amount: int, param: str) -> int:
    """Return the amount.

    Raises:
        StripeRefusalError: 400 naming the parameter if it is not at least 1.
    """
    if amount < 1:
        raise invalid(
            "This value must be greater than or equal to 1.", "parameter_invalid_integer", param
        )
    return amount


def check_charge(amount: int, currency: str) -> None:
    """Check a charge's size.

    Raises:
        StripeRefusalError: 400 naming `amount` if it is not positive, too small, too large, or has
            a third decimal that the networks cannot settle.
    """
    check_positive(amount, "amount")
    greatest = GREATEST_IDR if currency == "idr" else GREATEST
    if amount > greatest:
        raise invalid(
            f"Amount must be no more than {greatest} {currency}", "amount_too_large", "amount"
        )
    if amount < LEAST.get(currency, 1):
        raise invalid(
            f"Amount must be at least {LEAST[currency]} {currency}", "amount_too_small", "amount"
        )
    if currency in THREE_DECIMALS and amount % 10:
        raise invalid(
            f"Amounts in {currency} must be divisible by 10.",
            "parameter_invalid_integer",
            "amount",
        )


def fee_of(captured: int) -> int:
    """Return the processing fee of a captured amount: 2.9 % rounded half up, and 30."""
    return (captured * FEE_PERMILLE + 500) // 1000 + FEE_FIXED
