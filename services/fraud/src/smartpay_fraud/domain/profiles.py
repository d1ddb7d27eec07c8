"""The columns that each part of a payment contributes: their names, and how they are computed.

Names and figures stand side by side in the same order. Windows are (now - length, now]. Times are
log(1 + seconds), sums log(1 + USD), amounts compared as logarithms. NaN: not known, or no such
thing yet; the trees route it by itself.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

from smartpay_fraud.domain.activity import (
    DAY_MS,
    FRAUD,
    LABEL_DAYS_MAX,
    LABEL_DELAY_MS,
    MEMORY_MS,
    Activity,
    Payment,
)

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

LABEL_DAYS: tuple[int, ...] = (1, 3, 7, 14, LABEL_DAYS_MAX)
"""Windows of fates: a compromised terminal shows within days, a customer's card within weeks."""

LAST_LABELS = 3
"""The latest payments whose fate is told one by one."""

_LABELS_PRIOR = 4  # fates that an unproven entity is assumed to have, all legitimate
_NAN = math.nan


class Moment(NamedTuple):
    """Where each window begins, worked out once for all parts of a payment (ms)."""

    now: int
    minutes: int
    hour: int
    day: int
    days3: int
    days7: int
    days14: int
    days28: int
    days30: int
    memory: int
    matured: int
    labels: tuple[int, ...]


def moment_of(now_ms: int) -> Moment:
    """The beginnings of all windows that end now."""
    return Moment(
        now_ms,
        now_ms - 10 * MINUTE_MS,
        now_ms - HOUR_MS,
        now_ms - DAY_MS,
        now_ms - 3 * DAY_MS,
        now_ms - 7 * DAY_MS,
        now_ms - 14 * DAY_MS,
        now_ms - 28 * DAY_MS,
        now_ms - 30 * DAY_MS,
        now_ms - MEMORY_MS,
        now_ms - LABEL_DELAY_MS,
        tuple(now_ms - days * DAY_MS for days in LABEL_DAYS),
    )


def _fate_names(kind: str) -> tuple[str, ...]:
    return (
        f"{kind}_known_frauds",
        f"{kind}_known_fraud_rate",
        *(f"{kind}_known_{days}d" for days in LABEL_DAYS),
        *(f"{kind}_frauds_{days}d" for days in LABEL_DAYS),
        *(f"{kind}_fraud_share_{days}d" for days in LABEL_DAYS),
        *(f"{kind}_label_{n}" for n in range(1, LAST_LABELS + 1)),
        *(f"{kind}_label_age_{n}" for n in range(1, LAST_LABELS + 1)),
        f"{kind}_last_fraud_age",
        f"{kind}_first_fraud_age",
    )


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
    *_fate_names("customer"),
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
        *_distinct(cards, payment.card, day),
        *_distinct(devices, payment.device, day),
        _new(cards, payment.card, known),
        _new(devices, payment.device, known),
        _new(networks, payment.network, known),
        _new(countries, payment.country, known),
        _new(currencies, payment.currency, known),
        terminals.count(payment.terminal),
        activity.declines_since(at.day),
        *_fates(activity, at, oldest),
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
        *_distinct(customers, payment.customer, day),
        *_distinct(devices, payment.device, day),
        activity.declines_since(at.day),
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
        _volume(activity, day, at.day)[0],
        *_distinct(cards, payment.card, minutes, hour, day),
        *_distinct(customers, payment.customer, day),
        _tallied(activity, hour),
        activity.habit(payment.log_amount)[0],
        _idle(activity, at.now),
        _age(activity, at.now),
        activity.declines_since(at.hour),
        activity.declines_since(at.day),
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
    declines = activity.declines_since(at.hour)
    return [
        count - minutes,
        count - hour,
        _volume(activity, day, at.day)[0],
        *_distinct(cards, payment.card, hour, day),
        *_distinct(customers, payment.customer, hour),
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
    *_fate_names("terminal"),
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
        _volume(activity, day, at.day)[0],
        _volume(activity, week, at.days7)[0],
        _volume(activity, month, at.days28)[0],
        activity.habit(payment.log_amount)[0],
        _tallied(activity, week) / held_7d / 1000 if held_7d else 0.0,
        _idle(activity, at.now),
        _age(activity, at.now),
        *_fates(activity, at, oldest),
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
        _share(activity.declines_since(at.hour), count - hour),
        activity.known_frauds(),
        fraud_rate(activity, at),
    ]


COUNTRY = ("country_known_fraud_rate",)
CATEGORY = ("category_known_fraud_rate",)


def fraud_rate(activity: Activity, at: Moment) -> float:
    """The share of frauds among the fates of 28 days, drawn towards none while there are few."""
    times = activity.times
    last = bisect_right(times, at.matured)
    first = bisect_right(times, at.memory, 0, last)
    count, frauds = activity.settled(at.days28, at.now, first, last)
    return frauds / (count + _LABELS_PRIOR)


def _fates(activity: Activity, at: Moment, oldest: int) -> list[float]:
    """What is known of how the entity's payments turned out, in the order of _fate_names."""
    times = activity.times
    now = at.now
    last = first = bisect_right(times, at.matured)
    simple = not activity.fraud_keys and not activity.cleared and activity.buckets is None
    counts: list[float] = []
    frauds: list[float] = []
    for after in at.labels:
        first = bisect_right(times, after - LABEL_DELAY_MS, 0, first)
        if simple:
            counts.append(last - first)
        else:
            count, fraud = activity.settled(after, now, first, last)
            counts.append(count)
            frauds.append(fraud)
    if simple:
        frauds = _NO_FRAUDS
        shares = _NO_FRAUDS
    else:
        shares = [f / c if c else 0.0 for f, c in zip(frauds, counts, strict=True)]
    labels: list[float] = []
    ages: list[float] = []
    words = activity.words
    for index in range(last - 1, last - 1 - LAST_LABELS, -1):
        if index < oldest:
            labels.append(_NAN)
            ages.append(_NAN)
        else:
            labels.append(1.0 if words[index] == FRAUD else 0.0)
            ages.append(math.log1p((now - times[index]) / 1000))
    marks = activity.frauds
    last_age = first_age = _NAN
    if marks:
        first_ms = activity.first_fraud_ms if activity.forgotten_frauds else marks[0]
        last_age = math.log1p(max(0, now - marks[-1]) / 1000)
        first_age = math.log1p(max(0, now - first_ms) / 1000)
    return [
        activity.known_frauds(),
        frauds[-1] / (counts[-1] + _LABELS_PRIOR),
        *counts,
        *frauds,
        *shares,
        *labels,
        *ages,
        last_age,
        first_age,
    ]


_NO_FRAUDS = [0.0] * len(LABEL_DAYS)


def _volume(activity: Activity, first: int, after_ms: int) -> tuple[int, int]:
    """Payments and US cents from a held index on, and of the days before that can't be held."""
    spend = activity.spend
    count = len(spend) - first
    cents = 0
    if count:
        cents = spend[-1] - (spend[first - 1] if first else activity.spend_before)
    buckets = activity.buckets
    if not first and buckets is not None:
        day = buckets.since(after_ms)
        count += sum(buckets.counts[day:])
        cents += sum(buckets.cents[day:])
    return count, cents


def _tallied(activity: Activity, first: int) -> int:
    tally = activity.tally
    if first == len(tally):
        return 0
    return tally[-1] - (tally[first - 1] if first else activity.tally_before)


def _distinct(column: list[str], own: str, *firsts: int) -> list[int]:
    """How many different values each window holds, the payment's own included; "" is none.

    Windows come narrowest first: each wider one only adds what lies before the narrower.
    """
    values = {own}
    end = len(column)
    counts = []
    for first in firsts:
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
    if not activity.times:
        return _NAN
    return math.log1p(max(0, now_ms - activity.times[-1]) / 1000)


def _age(activity: Activity, now_ms: int) -> float:
    if activity.first_ms is None:
        return 0.0
    return math.log1p(max(0, now_ms - activity.first_ms) / 1000)
