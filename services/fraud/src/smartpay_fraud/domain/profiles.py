"""The columns that each part of a payment contributes: their names, and how they are computed.

Names and figures stand side by side in the same order. Windows are (now - length, now]. Times are
log(1 + seconds), sums log(1 + USD), amounts compared as logarithms. NaN: not known, or no such
thing yet; the trees route it by itself.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter

from smartpay_fraud.domain.activity import Activity, Payment
from smartpay_fraud.domain.fates import fate_names, fates, fraud_rate
from smartpay_fraud.domain.moments import Moment, log_seconds, moment_of

_NAN = math.nan


CUSTOMER = (
    "customer_count_1h",
    "customer_count_24h",
    "customer_count_7d",
    "customer_count_30d",
    "customer_spend_24h",
    "customer_spend_7d",
    "customer_spend_30d",
    "customer_amount_z",
    "customer_amount_ratio",
    "customer_amount_ratio_24h",
    "customer_amount_ratio_7d",
    "customer_amount_ratio_30d",
    "customer_mean",
    "customer_spread",
    "customer_outliers_3d",
    "customer_outliers_14d",
    "customer_idle",
    "customer_age",
    "customer_cards_24h",
    "customer_devices_24h",
    "customer_new_card",
    "customer_new_device",
    "customer_new_network",
    "customer_new_country",
    "customer_new_currency",
    "customer_at_terminal",
    "customer_declines_24h",
    *fate_names("customer"),
)
CUSTOMER_COLUMNS = ("card", "device", "network", "country", "currency", "terminal")


def customer_view(
    activity: Activity, payment: Payment, at: Moment, z: float, ratio: float
) -> list[float]:
    """The customer's own past; its habit was measured already as (z, ratio)."""
    times = activity.times
    count = len(times)
    hour = bisect_right(times, at.hour)
    day = bisect_right(times, at.day, 0, hour)
    days3 = bisect_right(times, at.days3, 0, day)
    week = bisect_right(times, at.days7, 0, days3)
    days14 = bisect_right(times, at.days14, 0, week)
    month = bisect_right(times, at.days30, 0, days14)
    oldest = bisect_right(times, at.memory, 0, month)
    cents = payment.cents
    count_24h, spend_24h = _volume(activity, day, at.day)
    count_7d, spend_7d = _volume(activity, week, at.days7)
    count_30d, spend_30d = _volume(activity, month, at.days30)
    columns = activity.columns
    if oldest:
        columns = [column[oldest:] for column in columns]
    cards, devices, networks, countries, currencies, terminals = columns
    day -= oldest
    known = count > oldest
    return [
        count - hour,
        count_24h,
        count_7d,
        count_30d,
        math.log1p(spend_24h / 100),
        math.log1p(spend_7d / 100),
        math.log1p(spend_30d / 100),
        z,
        ratio,
        math.log(cents * count_24h / spend_24h) if spend_24h else _NAN,
        math.log(cents * count_7d / spend_7d) if spend_7d else _NAN,
        math.log(cents * count_30d / spend_30d) if spend_30d else _NAN,
        activity.mean(),
        activity.spread() / 1000,
        _tallied(activity, days3),
        _tallied(activity, days14),
        _idle(activity, at.now),
        _age(activity, at.now),
        _distinct(cards, payment.card, day),
        _distinct(devices, payment.device, day),
        _new(cards, payment.card, known),
        _new(devices, payment.device, known),
        _new(networks, payment.network, known),
        _new(countries, payment.country, known),
        _new(currencies, payment.currency, known),
        terminals.count(payment.terminal),
        _declines(activity, at.day),
        *fates(activity, at, oldest),
    ]


CARD = (
    "card_count_10m",
    "card_count_1h",
    "card_count_24h",
    "card_spend_24h",
    "card_amount_z",
    "card_idle",
    "card_age",
    "card_customers_24h",
    "card_devices_24h",
    "card_declines_24h",
    "card_known_frauds",
)
CARD_COLUMNS = ("customer", "device")


def card_view(activity: Activity, payment: Payment, at: Moment) -> list[float]:
    """The card's past at this merchant."""
    times = activity.times
    count = len(times)
    minutes = bisect_right(times, at.minutes)
    hour = bisect_right(times, at.hour, 0, minutes)
    day = bisect_right(times, at.day, 0, hour)
    count_24h, spend_24h = _volume(activity, day, at.day)
    customers, devices = activity.columns
    return [
        count - minutes,
        count - hour,
        count_24h,
        math.log1p(spend_24h / 100),
        activity.habit(payment.log_amount)[0],
        _idle(activity, at.now),
        _age(activity, at.now),
        _distinct(customers, payment.customer, day),
        _distinct(devices, payment.device, day),
        _declines(activity, at.day),
        activity.known_frauds(),
    ]


DEVICE = (
    "device_count_10m",
    "device_count_1h",
    "device_count_24h",
    "device_cards_10m",
    "device_cards_1h",
    "device_cards_24h",
    "device_customers_24h",
    "device_tiny_1h",
    "device_amount_z",
    "device_idle",
    "device_age",
    "device_declines_1h",
    "device_declines_24h",
    "device_known_frauds",
)
DEVICE_COLUMNS = ("card", "customer")


def device_view(activity: Activity, payment: Payment, at: Moment) -> list[float]:
    """The device's past at this merchant."""
    times = activity.times
    count = len(times)
    minutes = bisect_right(times, at.minutes)
    hour = bisect_right(times, at.hour, 0, minutes)
    day = bisect_right(times, at.day, 0, hour)
    cards, customers = activity.columns
    return [
        count - minutes,
        count - hour,
        _count(activity, day, at.day),
        *_distincts(cards, payment.card, minutes, hour, day),
        _distinct(customers, payment.customer, day),
        _tallied(activity, hour),
        activity.habit(payment.log_amount)[0],
        _idle(activity, at.now),
        _age(activity, at.now),
        _declines(activity, at.hour),
        _declines(activity, at.day),
        activity.known_frauds(),
    ]


NETWORK = (
    "network_count_10m",
    "network_count_1h",
    "network_count_24h",
    "network_cards_1h",
    "network_cards_24h",
    "network_customers_1h",
    "network_tiny_1h",
    "network_tiny_share_1h",
    "network_amount_z",
    "network_age",
    "network_declines_1h",
    "network_decline_share_1h",
    "network_known_frauds",
    "network_known_fraud_rate",
)
NETWORK_COLUMNS = ("card", "customer")


def network_view(activity: Activity, payment: Payment, at: Moment) -> list[float]:
    """The past of the payer's public address, at all merchants."""
    times = activity.times
    count = len(times)
    minutes = bisect_right(times, at.minutes)
    hour = bisect_right(times, at.hour, 0, minutes)
    day = bisect_right(times, at.day, 0, hour)
    cards, customers = activity.columns
    tiny = _tallied(activity, hour)
    declines = _declines(activity, at.hour)
    return [
        count - minutes,
        count - hour,
        _count(activity, day, at.day),
        *_distincts(cards, payment.card, hour, day),
        _distinct(customers, payment.customer, hour),
        tiny,
        _share(tiny, count - hour),
        activity.habit(payment.log_amount)[0],
        _age(activity, at.now),
        declines,
        _share(declines, count - hour),
        activity.known_frauds(),
        fraud_rate(activity, at),
    ]


TERMINAL = (
    "terminal_count_24h",
    "terminal_count_7d",
    "terminal_count_28d",
    "terminal_amount_z",
    "terminal_mean_z_7d",
    "terminal_idle",
    "terminal_age",
    *fate_names("terminal"),
)


def terminal_view(activity: Activity, payment: Payment, at: Moment) -> list[float]:
    """The past of the point of sale, which is the merchant itself when none is named."""
    times = activity.times
    day = bisect_right(times, at.day)
    week = bisect_right(times, at.days7, 0, day)
    month = bisect_right(times, at.days28, 0, week)
    oldest = bisect_right(times, at.memory, 0, month)
    held_7d = len(times) - week
    return [
        _count(activity, day, at.day),
        _count(activity, week, at.days7),
        _count(activity, month, at.days28),
        activity.habit(payment.log_amount)[0],
        _tallied(activity, week) / held_7d / 1000 if held_7d else 0.0,
        _idle(activity, at.now),
        _age(activity, at.now),
        *fates(activity, at, oldest),
    ]


MERCHANT = (
    "merchant_count_10m",
    "merchant_count_1h",
    "merchant_tiny_share_1h",
    "merchant_amount_z",
    "merchant_age",
    "merchant_decline_share_1h",
    "merchant_known_frauds",
    "merchant_known_fraud_rate",
)


def merchant_view(activity: Activity, payment: Payment, at: Moment) -> list[float]:
    """What goes on at the merchant as a whole."""
    times = activity.times
    count = len(times)
    hour = bisect_right(times, at.hour)
    return [
        count - bisect_right(times, at.minutes),
        count - hour,
        _share(_tallied(activity, hour), count - hour),
        activity.habit(payment.log_amount)[0],
        _age(activity, at.now),
        _share(_declines(activity, at.hour), count - hour),
        activity.known_frauds(),
        fraud_rate(activity, at),
    ]


class Newcomers:
    """Views of entities never seen: they differ only in which of the payment's columns are given.

    So each is worked out once, by the view itself.
    """

    def __init__(
        self,
        view: Callable[[Activity, Payment, Moment], Sequence[float]],
        columns: tuple[str, ...],
    ) -> None:
        self._view = view
        self._newcomer = Activity(len(columns))
        self._values = attrgetter(*columns)
        self._known: dict[tuple[bool, ...], Sequence[float]] = {}

    def view(self, payment: Payment) -> Sequence[float]:
        """What the view says of a newcomer with this payment."""
        given = tuple(map(bool, self._values(payment)))
        known = self._known.get(given)
        if known is None:
            known = self._view(self._newcomer, payment, moment_of(payment.time_ms))
            self._known[given] = known
        return known


NEW_CUSTOMERS = Newcomers(
    lambda activity, payment, at: customer_view(activity, payment, at, _NAN, _NAN),
    CUSTOMER_COLUMNS,
)
NEW_CARDS = Newcomers(card_view, CARD_COLUMNS)
NEW_DEVICES = Newcomers(device_view, DEVICE_COLUMNS)
NEW_NETWORKS = Newcomers(network_view, NETWORK_COLUMNS)

COUNTRY = ("country_known_fraud_rate",)
CATEGORY = ("category_known_fraud_rate",)


def _count(activity: Activity, first: int, after_ms: int) -> int:
    """Payments from a held index on, and of the days before that can't be held."""
    count = len(activity.times) - first
    if first == activity.start and activity.buckets is not None:
        count += activity.buckets.volume(after_ms)[0]
    return count


def _volume(activity: Activity, first: int, after_ms: int) -> tuple[int, int]:
    """The same, and their sum in US cents."""
    spend = activity.spend
    count = len(spend) - first
    cents = 0
    if count:
        cents = spend[-1] - (spend[first - 1] if first else activity.spend_before)
    if first == activity.start and activity.buckets is not None:
        days, cents_of_days = activity.buckets.volume(after_ms)
        return count + days, cents + cents_of_days
    return count, cents


def _tallied(activity: Activity, first: int) -> int:
    tally = activity.tally
    if first == len(tally):
        return 0
    return tally[-1] - (tally[first - 1] if first else activity.tally_before)


def _declines(activity: Activity, after_ms: int) -> int:
    return activity.declines_since(after_ms) if activity.declines else 0


def _distinct(column: list[str], own: str, first: int) -> int:
    """How many different values a window holds, the payment's own included; "" is none."""
    if first == len(column):
        return 1 if own else 0
    values = set(column[first:])
    values.add(own)
    return len(values) - ("" in values)


def _distincts(column: list[str], own: str, *firsts: int) -> list[int]:
    """The same for several windows, narrowest first."""
    values = {own}
    end = len(column)
    counts = []
    for first in firsts:
        # A wider window only adds what lies before the narrower.
        if first < end:
            values.update(column[first:end])
            end = first
        counts.append(len(values) - ("" in values))
    return counts


def _new(column: list[str], own: str, known: bool) -> float:
    """1 when somebody known comes with a value not seen in memory; NaN without a value."""
    if not own:
        return _NAN
    return 1.0 if known and own not in column else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _idle(activity: Activity, now_ms: int) -> float:
    times = activity.times
    return log_seconds(times[-1], now_ms) if times else _NAN


def _age(activity: Activity, now_ms: int) -> float:
    first_ms = activity.first_ms
    return 0.0 if first_ms is None else log_seconds(first_ms, now_ms)
