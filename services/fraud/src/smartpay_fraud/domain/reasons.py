"""Puts what raised a score into words: stable codes for machines, one sentence each for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.fates import LAST_LABELS
from smartpay_fraud.domain.features import FEATURES, Vector
from smartpay_fraud.domain.moments import LABEL_DAYS

REASONS_MAX = 4
"""The contract's limit; past the fourth cause nobody reads on."""

CONTRIBUTION_MIN = 0.05
"""Log-odds: a cause that changed the odds by less than 5 % is no cause worth telling."""

VALUES_MAX = 4
"""Figures told per reason: the ones that moved the score most; more would bury them."""

GRAPH_NEIGHBOURS = "GRAPH_NEIGHBOURS"
"""The code of whatever the graph model adds behind the base row."""


class Reason(NamedTuple):
    """One cause of a score.

    Attributes:
        code: stable, for machines.
        message: one sentence with the figures.
        contribution: log-odds added to the score; 0 for a rule.
        values: the figures behind it, by feature name: counts, US dollars, seconds, shares of 1,
            factors, or standard deviations; 1 and 0 for yes and no.
    """

    code: str
    message: str
    contribution: float
    values: Mapping[str, float] = MappingProxyType({})


class _Figure(NamedTuple):
    """How a column is told: its plain value, and that value in words."""

    plain: Callable[[float], float]
    words: Callable[[float], str]


def _ago(seconds: float) -> str:
    for length, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _same(value: float) -> float:
    return value


_COUNT = _Figure(_same, lambda count: f"{count:.0f}")
_DOLLARS = _Figure(math.expm1, lambda dollars: f"about {dollars:,.0f} USD")
_AGO = _Figure(math.expm1, _ago)
_SPREADS = _Figure(
    _same, lambda z: f"{abs(z):.1f} standard deviations {'above' if z >= 0 else 'below'}"
)
_TIMES = _Figure(math.exp, lambda factor: f"{factor:.1f} times")
_SHARE = _Figure(_same, lambda share: f"{100 * share:.0f} %")
_NEW = _Figure(_same, lambda flag: "is new" if flag else "was seen before")
_KNOWN = _Figure(_same, lambda flag: "was a fraud" if flag else "was in order")
_WEEKEND = _Figure(_same, lambda flag: "on a weekend" if flag else "on a working day")
_MEAN = _Figure(lambda log_cents: math.exp(log_cents) / 100, _DOLLARS.words)
_SPREAD = _Figure(math.exp, lambda factor: f"a factor of {factor:.1f}")


class _Wording(NamedTuple):
    """What a column is called: its code, its figure, and a sentence with room for it, {0}."""

    feature: str
    code: str
    figure: _Figure
    sentence: str


_LENGTHS = {"10m": "10 minutes", "1h": "1 hour", "24h": "24 hours"} | {
    f"{days}d": f"{days} days" for days in (3, 7, 14, 28, 30)
}
_ORDINALS = ("latest", "second latest", "third latest")


def _windows(
    name: str, lengths: str, code: str, figure: _Figure, sentence: str
) -> Iterable[_Wording]:
    """One wording per window: `name` ends before the length, the sentence has room for it, {1}."""
    for length in lengths.split():
        text = sentence.replace("{1}", _LENGTHS[length])
        yield _Wording(f"{name}_{length}", code, figure, text)


def _fates(kind: str, code: str) -> Iterable[_Wording]:
    """The wordings of everything known of how an entity's payments turned out."""
    yield _Wording(
        f"{kind}_known_frauds",
        code,
        _COUNT,
        f"{{0}} payments of this {kind} were reported as fraud.",
    )
    yield _Wording(
        f"{kind}_known_fraud_rate",
        code,
        _SHARE,
        f"The {kind}'s smoothed rate of reported fraud is {{0}}.",
    )
    for days in LABEL_DAYS:
        within = "1 day" if days == 1 else f"{days} days"
        yield _Wording(
            f"{kind}_known_{days}d",
            code,
            _COUNT,
            f"{{0}} payments of this {kind} were settled within {within}.",
        )
        yield _Wording(
            f"{kind}_frauds_{days}d",
            code,
            _COUNT,
            f"{{0}} payments of this {kind} were reported as fraud within {within}.",
        )
        yield _Wording(
            f"{kind}_fraud_share_{days}d",
            code,
            _SHARE,
            f"{{0}} of this {kind}'s payments settled within {within} were fraud.",
        )
    for number in range(1, LAST_LABELS + 1):
        which = f"{_ORDINALS[number - 1]} settled payment"
        yield _Wording(f"{kind}_label_{number}", code, _KNOWN, f"The {kind}'s {which} {{0}}.")
        yield _Wording(
            f"{kind}_label_age_{number}", code, _AGO, f"The {kind}'s {which} was made {{0}}."
        )
    for which in ("last", "first"):
        yield _Wording(
            f"{kind}_{which}_fraud_age",
            code,
            _AGO,
            f"The {kind}'s {which} known fraud was reported {{0}}.",
        )


def _customer() -> Iterable[_Wording]:
    pace, amount = "VELOCITY_CUSTOMER", "AMOUNT_UNUSUAL"
    count = "The customer paid {0} times within {1}."
    yield from _windows("customer_count", "1h 24h 7d 30d", pace, _COUNT, count)
    spend = "The customer paid {0} within {1}."
    yield from _windows("customer_spend", "24h 7d 30d", pace, _DOLLARS, spend)
    usual = "The amount is {0} what this customer usually pays."
    yield _Wording("customer_amount_z", amount, _SPREADS, usual)
    yield _Wording("customer_amount_ratio", amount, _TIMES, usual)
    lately = "The amount is {0} the customer's average of the last {1}."
    yield from _windows("customer_amount_ratio", "24h 7d 30d", amount, _TIMES, lately)
    yield _Wording("customer_mean", amount, _MEAN, "The customer usually pays {0}.")
    yield _Wording("customer_spread", amount, _SPREAD, "The customer's amounts vary by {0}.")
    outliers = "{0} payments of this customer within {1} were unusually large."
    yield from _windows("customer_outliers", "3d 14d", amount, _COUNT, outliers)
    yield _Wording("customer_idle", pace, _AGO, "The customer's last payment was {0}.")
    yield _Wording("customer_age", "NEW_CUSTOMER", _AGO, "The customer was first seen {0}.")
    for part in ("card", "device"):
        several = f"The customer used {{0}} different {part}s within {{1}}."
        yield from _windows(f"customer_{part}s", "24h", f"NEW_{part.upper()}", _COUNT, several)
    for part in ("card", "device", "network"):
        new = f"The {part} {{0}} with this customer."
        yield _Wording(f"customer_new_{part}", f"NEW_{part.upper()}", _NEW, new)
    for part in ("country", "currency"):
        new = f"The {part} {{0}} with this customer."
        yield _Wording(f"customer_new_{part}", "COUNTRY_UNUSUAL", _NEW, new)
    often = "The customer was at this terminal {0} times within 35 days."
    yield _Wording("customer_at_terminal", "NEW_CUSTOMER", _COUNT, often)
    declined = "{0} payments of this customer were declined within {1}."
    yield from _windows("customer_declines", "24h", "DECLINES", _COUNT, declined)
    yield from _fates("customer", "KNOWN_FRAUD")


def _card() -> Iterable[_Wording]:
    pace = "VELOCITY_CARD"
    used = "The card was used {0} times within {1}."
    yield from _windows("card_count", "10m 1h 24h", pace, _COUNT, used)
    yield from _windows("card_spend", "24h", pace, _DOLLARS, "The card paid {0} within {1}.")
    usual = "The amount is {0} what this card usually pays."
    yield _Wording("card_amount_z", "AMOUNT_UNUSUAL", _SPREADS, usual)
    yield _Wording("card_idle", pace, _AGO, "The card's last payment was {0}.")
    yield _Wording("card_age", "NEW_CARD", _AGO, "The card was first seen {0}.")
    shared = "{0} different customers used this card within {1}."
    yield from _windows("card_customers", "24h", pace, _COUNT, shared)
    devices = "The card was used on {0} different devices within {1}."
    yield from _windows("card_devices", "24h", "NEW_DEVICE", _COUNT, devices)
    declined = "{0} payments with this card were declined within {1}."
    yield from _windows("card_declines", "24h", "DECLINES", _COUNT, declined)
    reported = "{0} payments with this card were reported as fraud."
    yield _Wording("card_known_frauds", "KNOWN_FRAUD", _COUNT, reported)


def _device() -> Iterable[_Wording]:
    pace, testing = "VELOCITY_DEVICE", "CARD_TESTING"
    came = "{0} payments came from this device within {1}."
    yield from _windows("device_count", "10m 1h 24h", pace, _COUNT, came)
    cards = "{0} different cards were used on this device within {1}."
    yield from _windows("device_cards", "10m 1h 24h", testing, _COUNT, cards)
    customers = "{0} different customers paid from this device within {1}."
    yield from _windows("device_customers", "24h", pace, _COUNT, customers)
    tiny = "{0} very small payments came from this device within {1}."
    yield from _windows("device_tiny", "1h", testing, _COUNT, tiny)
    usual = "The amount is {0} what is usual on this device."
    yield _Wording("device_amount_z", "AMOUNT_UNUSUAL", _SPREADS, usual)
    yield _Wording("device_idle", pace, _AGO, "The device's last payment was {0}.")
    yield _Wording("device_age", "NEW_DEVICE", _AGO, "The device was first seen {0}.")
    declined = "{0} payments from this device were declined within {1}."
    yield from _windows("device_declines", "1h 24h", "DECLINES", _COUNT, declined)
    reported = "{0} payments from this device were reported as fraud."
    yield _Wording("device_known_frauds", "KNOWN_FRAUD", _COUNT, reported)


def _network() -> Iterable[_Wording]:
    pace, testing = "VELOCITY_NETWORK", "CARD_TESTING"
    came = "{0} payments came from this network within {1}."
    yield from _windows("network_count", "10m 1h 24h", pace, _COUNT, came)
    cards = "{0} different cards were used on this network within {1}."
    yield from _windows("network_cards", "1h 24h", pace, _COUNT, cards)
    customers = "{0} different customers paid from this network within {1}."
    yield from _windows("network_customers", "1h", pace, _COUNT, customers)
    tiny = "{0} very small payments came from this network within {1}."
    yield from _windows("network_tiny", "1h", testing, _COUNT, tiny)
    share = "{0} of this network's payments within {1} were very small."
    yield from _windows("network_tiny_share", "1h", testing, _SHARE, share)
    usual = "The amount is {0} what is usual on this network."
    yield _Wording("network_amount_z", "AMOUNT_UNUSUAL", _SPREADS, usual)
    yield _Wording("network_age", "NEW_NETWORK", _AGO, "The network was first seen {0}.")
    declined = "{0} payments from this network were declined within {1}."
    yield from _windows("network_declines", "1h", "DECLINES", _COUNT, declined)
    rate = "{0} of this network's payments within {1} were declined."
    yield from _windows("network_decline_share", "1h", "DECLINES", _SHARE, rate)
    reported = "{0} payments from this network were reported as fraud."
    yield _Wording("network_known_frauds", "KNOWN_FRAUD", _COUNT, reported)
    smoothed = "The network's smoothed rate of reported fraud is {0}."
    yield _Wording("network_known_fraud_rate", "KNOWN_FRAUD", _SHARE, smoothed)


def _places() -> Iterable[_Wording]:
    attack = "MERCHANT_UNDER_ATTACK"
    took = "The terminal took {0} payments within {1}."
    yield from _windows("terminal_count", "24h 7d 28d", attack, _COUNT, took)
    usual = "The amount is {0} what is usual at this terminal."
    yield _Wording("terminal_amount_z", "AMOUNT_UNUSUAL", _SPREADS, usual)
    guests = "The amounts paid at this terminal within {1} lay {0} their customers' habits."
    yield from _windows("terminal_mean_z", "7d", "TERMINAL_COMPROMISED", _SPREADS, guests)
    yield _Wording("terminal_idle", attack, _AGO, "The terminal's last payment was {0}.")
    yield _Wording("terminal_age", "NEW_MERCHANT", _AGO, "The terminal's first payment was {0}.")
    yield from _fates("terminal", "TERMINAL_COMPROMISED")
    took = "The merchant took {0} payments within {1}."
    yield from _windows("merchant_count", "10m 1h", attack, _COUNT, took)
    tiny = "{0} of the merchant's payments within {1} were very small."
    yield from _windows("merchant_tiny_share", "1h", attack, _SHARE, tiny)
    usual = "The amount is {0} what is usual at this merchant."
    yield _Wording("merchant_amount_z", "AMOUNT_UNUSUAL", _SPREADS, usual)
    yield _Wording("merchant_age", "NEW_MERCHANT", _AGO, "The merchant's first payment was {0}.")
    declined = "{0} of the merchant's payments within {1} were declined."
    yield from _windows("merchant_decline_share", "1h", attack, _SHARE, declined)
    reported = "{0} payments of this merchant were reported as fraud."
    yield _Wording("merchant_known_frauds", attack, _COUNT, reported)
    smoothed = "The merchant's smoothed rate of reported fraud is {0}."
    yield _Wording("merchant_known_fraud_rate", attack, _SHARE, smoothed)
    smoothed = "The smoothed rate of reported fraud from this country is {0}."
    yield _Wording("country_known_fraud_rate", "COUNTRY_UNUSUAL", _SHARE, smoothed)
    smoothed = "The smoothed rate of reported fraud in this merchant category is {0}."
    yield _Wording("category_known_fraud_rate", "CATEGORY_RISK", _SHARE, smoothed)


def _payment() -> Iterable[_Wording]:
    yield _Wording("amount", "AMOUNT_HIGH", _DOLLARS, "The amount is {0}.")
    hour = "The payment came in the hour after {0}:00 UTC."
    yield _Wording("hour", "HOUR_UNUSUAL", _COUNT, hour)
    yield _Wording("weekend", "HOUR_UNUSUAL", _WEEKEND, "The payment came {0}.")


_BY_FEATURE = {
    wording.feature: wording
    for tell in (_payment, _customer, _card, _device, _network, _places)
    for wording in tell()
}
_WORDINGS = [_BY_FEATURE[name] for name in FEATURES]

REASON_CODES = tuple(sorted({wording.code for wording in _WORDINGS} | {GRAPH_NEIGHBOURS}))
"""Every code a model's reason can carry; each stays for ever once published."""

# Columns in the order of their codes, so that what belongs together lies side by side.
_ORDER = np.argsort([REASON_CODES.index(wording.code) for wording in _WORDINGS], kind="stable")
_IN_ORDER = [(column, *_WORDINGS[column]) for column in _ORDER.tolist()]
_CODES = [_WORDINGS[column].code for column in _ORDER]
_STARTS = np.array([_CODES.index(code) for code in dict.fromkeys(_CODES)])
_SPANS = [range(*span) for span in pairwise([*_STARTS.tolist(), len(_CODES)])]
_GRAPH = len(_SPANS)  # whatever the graph added stands behind the codes
_GRAPH_SENTENCE = (
    "Recent payments around this customer, card, device, network and terminal resemble fraud."
)


def model_reasons(
    row: Vector, contributions: NDArray[np.float64], limit: int = REASONS_MAX
) -> list[Reason]:
    """The causes that raised one score most; see `reasons_of`."""
    return reasons_of(row[None], contributions[None], [limit])[0]


def reasons_of(
    rows: NDArray[np.float32], contributions: NDArray[np.float64], limits: Sequence[int]
) -> list[list[Reason]]:
    """Per row the causes that raised its score most, strongest first.

    Takes rows with one value per name in FEATURES, with or without the graph model's columns
    behind (the last is its log-odds), and what each column added, in log-odds. Features of one
    code are summed and the strongest speaks for them. A missing input is no cause: what is not
    known can't be explained to anyone.
    """
    width = len(FEATURES)
    known = contributions.copy()  # the caller's stay as they are
    known[np.isnan(rows)] = 0.0
    added = known.take(_ORDER, axis=1)
    totals = np.add.reduceat(added, _STARTS, axis=1).tolist()
    if contributions.shape[1] > width:
        for each, graph in zip(totals, contributions[:, width:].sum(axis=1).tolist(), strict=True):
            each.append(graph)
    return [_reasons(*each) for each in zip(rows, added.tolist(), totals, limits, strict=True)]


def _reasons(row: Vector, added: list[float], totals: list[float], limit: int) -> list[Reason]:
    causes = [number for number, total in enumerate(totals) if total >= CONTRIBUTION_MIN]
    causes.sort(key=totals.__getitem__, reverse=True)
    reasons = []
    for number in causes[:limit]:
        total = totals[number]
        if number == _GRAPH:
            values = {"graph_log_odds": float(row[-1])}
            reasons.append(Reason(GRAPH_NEIGHBOURS, _GRAPH_SENTENCE, total, values))
            continue
        told = sorted(_SPANS[number], key=added.__getitem__, reverse=True)
        values = {}
        for at in told[:VALUES_MAX]:
            if added[at] <= 0:
                break
            column, feature, _, figure, _ = _IN_ORDER[at]
            values[feature] = figure.plain(row.item(column))
        _, feature, code, figure, sentence = _IN_ORDER[told[0]]
        message = sentence.replace("{0}", figure.words(values[feature]))
        reasons.append(Reason(code, message, total, values))
    return reasons


def plain_of(feature: str) -> Callable[[float], float]:
    """Puts a column's value into the unit reasons tell it in; NaN stays NaN."""
    return _BY_FEATURE[feature].figure.plain


def sentence_of(feature: str) -> str:
    """The sentence a column is told in, with {0} for its value."""
    return _BY_FEATURE[feature].sentence
