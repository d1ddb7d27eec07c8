"""A seeded stream of payments with frauds in it, so that a model can be trained from nothing.

The process, in words. All amounts are drawn around a merchant's level in US cents and stored in
the merchant's currency; one merchant in three sells in another currency than USD.

Honest life:
- Merchants join throughout the period, so "everything is new" is an ordinary situation. Some send
  no device, no network address or no customer id, and some report no declines: missing inputs are
  as common among honest payments as among frauds.
- Customers belong to one merchant, come and go throughout (they stay 10 to 70 days, so that any
  week is like any other), pay at a rate and around an amount of their own. Most own one card and
  one device; some two. A tenth share a device with another customer (a family). A third sit behind
  a shared network (office, campus, mobile carrier); one payment in ten comes from another network
  (a traveller), one in fifty from a new device, one in forty on a new card. One payment in eighty
  is honestly large, 4 to 12 times the habit.
- Sales: within minutes a merchant gets 40 to 400 payments of new customers, sometimes all through
  one to six networks, sometimes without device or network, sometimes on a few shared cards (gift
  or agency cards). Half of them are the very first payments of their merchant.
- Batches: one customer pays 30 to 300 times in minutes on one card, from one server or unknown.
- One merchant in seven sells songs: 1 to 4 USD, bought in sets within minutes, sometimes with
  another card.
- Two merchants in five have shops of their own, 2 to 12, and a customer has a favourite among them.
  A merchant has one category; a payer has a country, mostly the merchant's, and some merchants
  send neither.
- One honest payment in 25 is declined; most payers try again within minutes, half of them with
  another card. One in a thousand is reported as fraud all the same.

Fraud:
- Card testing: one device and network try 8 to 30 cards with 0.50 to 4 USD each within minutes,
  half declined; then often one to three large payments on a card that worked.
- Account takeover: an established customer pays 2 to 5 times within an hour from a new device and
  network, 3 to 10 times the habit.
- Stolen card: a new customer on a new device pays 400 to 2,500 USD, up to three times.
- Compromised shop: for three weeks cards known at a merchant are used in one of its shops (or at
  the merchant, when it has none) from new devices.
- Night buyer: a new customer's first payment between 0 and 5 o'clock of 300 to 900 USD.
A fraudster's country is foreign in two cases of five, an honest payer's in one of eight. Frauds
become known 1 to 7 days later, as chargebacks do; declines two seconds later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import DAY_MS, HOUR_MS, MINUTE_MS
from smartpay_fraud.domain.transaction import reference_cents
from smartpay_fraud.training.stream import ABSENT, NEVER, Ints, Stream

START_MS = 1_735_689_600_000  # 2025-01-01 00:00 UTC; any midnight does
HONEST, CARD_TESTING, TAKEOVER, STOLEN_CARD, COMPROMISED, NIGHT_BUYER, REPORTED = range(7)
SCENARIOS = (
    "honest",
    "card testing",
    "account takeover",
    "stolen card",
    "compromised shop",
    "night buyer",
    "honest but reported",
)

_CURRENCIES = ("USD", "EUR", "GBP", "JPY", "BRL", "INR", "CAD")
_CURRENCY_WEIGHTS = (0.64, 0.12, 0.07, 0.06, 0.04, 0.04, 0.03)
# ISO 18245: groceries, restaurants, electronics, clothing, travel, furniture, cosmetics, games.
_CATEGORIES = ("5411", "5812", "5732", "5651", "4722", "5712", "5977", "5816")
_MICRO_CATEGORY = 7
_COUNTRIES = ("US", "DE", "GB", "JP", "BR", "IN", "CA", "FR", "NG", "VN", "MX", "PL")
_COUNTRY_WEIGHTS = (0.5, 0.1, 0.07, 0.06, 0.05, 0.05, 0.04, 0.04, 0.02, 0.02, 0.03, 0.02)
_SHOPS_MAX = 12
_STAY_MS = (10 * DAY_MS, 70 * DAY_MS)
_FOREIGN, _FOREIGN_FRAUD = 0.125, 0.4
_TWINS_SHARE = (
    *("m_joined", "m_level", "m_currency", "m_device", "m_network", "m_customer", "m_reports"),
    *("m_category", "m_country", "m_tells_country", "m_shops"),
)


@dataclass(frozen=True)
class PaymentsWorld:
    """How large the generated world is; the defaults are replayed in about a minute."""

    seed: int = 20_250_101
    days: int = 119
    merchants: int = 90
    customers: int = 36_000
    sales: int = 170
    batches: int = 94
    card_tests: int = 170
    takeovers: int = 450
    stolen_cards: int = 800
    compromised_shops: int = 13
    night_buyers: int = 450


def generate(world: PaymentsWorld | None = None) -> Stream:
    """Draws the whole stream; equal worlds give equal streams, bit for bit."""
    return _Story(world or PaymentsWorld()).tell()


def _address(network: int) -> str:
    # Public addresses only: the features ignore private ones.
    return f"{20 + network // 65_536 % 60}.{network // 256 % 256}.{network % 256}.7"


class _Story:
    """Draws one scenario after the other into blocks of columns."""

    def __init__(self, world: PaymentsWorld) -> None:
        self.world = world
        self.rng = np.random.default_rng(world.seed)
        self.blocks: list[dict[str, Ints]] = []
        self.end_ms = START_MS + world.days * DAY_MS
        self.names = 0
        rng, count = self.rng, world.merchants
        joined_ms = rng.integers(START_MS, self.end_ms - 4 * DAY_MS, count)
        self.m_joined = np.where(rng.random(count) < 0.5, START_MS, joined_ms)
        self.m_level = np.clip(np.exp(rng.normal(np.log(4500), 0.8, count)), 800, 30_000)
        self.m_micro = rng.random(count) < 0.15
        self.m_level = np.where(self.m_micro, rng.uniform(90, 350, count), self.m_level)
        self.m_currency = rng.choice(len(_CURRENCIES), count, p=_CURRENCY_WEIGHTS)
        self.m_device = rng.random(count) < 0.75
        self.m_network = rng.random(count) < 0.8
        self.m_customer = rng.random(count) < 0.85
        self.m_reports = rng.random(count) < 0.7
        self.m_peak_hour = rng.integers(0, 24, count)
        self.m_any_hour = rng.random(count) < 0.4
        self.m_weight = rng.lognormal(0, 1, count)
        self.m_category = rng.integers(0, _MICRO_CATEGORY, count)
        self.m_category = np.where(self.m_micro, _MICRO_CATEGORY, self.m_category)
        self.m_category = np.where(rng.random(count) < 0.8, self.m_category, ABSENT)
        self.m_country = rng.choice(len(_COUNTRIES), count, p=_COUNTRY_WEIGHTS)
        self.m_tells_country = rng.random(count) < 0.7
        self.m_shops = np.where(rng.random(count) < 0.4, rng.integers(2, _SHOPS_MAX + 1, count), 0)
        self.shared_networks = self._new(120)

    def tell(self) -> Stream:
        self._customers()
        self._sales()
        self._batches()
        self._card_tests()
        self._takeovers()
        self._stolen_cards()
        self._compromised_shops()
        self._night_buyers()
        return self._stream()

    # Honest life.

    def _customers(self) -> None:
        rng, world = self.rng, self.world
        count = world.customers
        merchant = rng.choice(world.merchants, count, p=self.m_weight / self.m_weight.sum())
        joined = rng.integers(START_MS - _STAY_MS[1], self.end_ms, count)
        begun = np.where(self.m_joined > START_MS, self.m_joined, START_MS - _STAY_MS[1])
        joined = np.maximum(joined, begun[merchant])
        left = joined + rng.integers(*_STAY_MS, count)
        days = (left - joined) / DAY_MS
        payments = 1 + rng.poisson(rng.gamma(0.7, 0.28, count) * days)
        payments = np.minimum(payments, 200)
        cards = self._new(2 * count).reshape(2, count)
        devices = self._new(2 * count).reshape(2, count)
        networks = self._new(count)
        networks = np.where(rng.random(count) < 0.33, self._shared(count), networks)
        by_merchant = np.argsort(merchant, kind="stable")
        neighbour = np.roll(by_merchant, 1)
        family = (rng.random(count) < 0.1) & (merchant[by_merchant] == merchant[neighbour])
        devices[0, by_merchant[family]] = devices[0, neighbour[family]]
        level = self.m_level[merchant] * np.exp(rng.normal(0, 0.5, count))
        spread = rng.uniform(0.2, 0.6, count)
        self.c_id, self.c_merchant = self._new(count), merchant
        self.c_joined, self.c_left = joined, np.minimum(left, self.end_ms)
        self.c_level, self.c_cards, self.c_payments = level, cards, payments
        self.c_shop = (rng.random(count) * self.m_shops[merchant]).astype(np.int64)
        self.c_country = self._country(merchant, _FOREIGN)

        who = np.repeat(np.arange(count), payments)
        total = len(who)
        first = np.r_[True, who[1:] != who[:-1]]
        time_ms = joined[who] + (rng.random(total) * (left - joined)[who]).astype(np.int64)
        time_ms = np.where(first, joined[who], time_ms)
        time_ms = self._at_shop_hours(time_ms, merchant[who])
        second_card = (rng.random(count) < 0.25)[who] & (rng.random(total) < 0.3)
        second_device = (rng.random(count) < 0.3)[who] & (rng.random(total) < 0.3)
        card = np.where(second_card, cards[1, who], cards[0, who])
        card = np.where(rng.random(total) < 0.025, self._new(total), card)
        device = np.where(second_device, devices[1, who], devices[0, who])
        device = np.where(rng.random(total) < 0.02, self._new(total), device)
        travel = np.where(rng.random(total) < 0.5, self._shared(total), self._new(total))
        network = np.where(rng.random(total) < 0.1, travel, networks[who])
        cents = level[who] * np.exp(rng.normal(0, 1, total) * spread[who])
        large = rng.random(total) < 1 / 80
        cents = np.where(large, cents * rng.uniform(4, 12, total), cents)
        customer = np.where(rng.random(total) < 0.06, ABSENT, self.c_id[who])
        declined = rng.random(total) < 0.04
        shop = (rng.random(total) * self.m_shops[merchant[who]]).astype(np.int64)
        shop = np.where(rng.random(total) < 0.7, self.c_shop[who], shop)
        self._add(
            time_ms,
            merchant[who],
            customer,
            card,
            device,
            network,
            cents,
            declined=declined,
            shop=shop,
            country=self.c_country[who],
        )
        # The same payer again within minutes: after a decline, or for the next song.
        again = np.flatnonzero(declined & (rng.random(total) < 0.6))
        songs = np.where(self.m_micro[merchant[who]], rng.poisson(1.5, total), 0)
        again = np.r_[again, np.repeat(np.arange(total), songs)]
        other_card = rng.random(len(again)) < np.where(declined[again], 0.5, 0.1)
        self._add(
            time_ms[again] + rng.integers(10_000, 300_000, len(again)),
            merchant[who[again]],
            customer[again],
            np.where(other_card, cards[1, who[again]], card[again]),
            device[again],
            network[again],
            np.where(
                declined[again], cents[again], cents[again] * rng.uniform(0.7, 1.3, len(again))
            ),
            declined=rng.random(len(again)) < 0.1,
            shop=shop[again],
            country=self.c_country[who[again]],
        )

    def _sales(self) -> None:
        rng = self.rng
        for number in range(self.world.sales):
            merchant = int(rng.integers(self.world.merchants))
            count = int(rng.integers(40, 401))
            if number % 2:
                begin = int(self.m_joined[merchant])
                merchant = self._twin_of(merchant)
            else:
                begin = int(rng.integers(self.m_joined[merchant], self.end_ms - DAY_MS))
            begin = begin // DAY_MS * DAY_MS + int(rng.integers(0, DAY_MS))
            time_ms = begin + rng.integers(0, int(rng.integers(1, 10)) * MINUTE_MS, count)
            card, device, network = self._new(count), self._new(count), self._new(count)
            if rng.random() < 0.4:
                card = rng.choice(self._new(int(rng.integers(1, 6))), count)
            if rng.random() < 0.35:
                device = np.full(count, ABSENT)
            kind = rng.random()
            if kind < 0.3:
                network = np.full(count, ABSENT)
            elif kind < 0.7:
                network = rng.choice(self._new(int(rng.integers(1, 7))), count)
            customer = self._new(count)
            if rng.random() < 0.2:
                customer = np.full(count, ABSENT)
            cents = rng.uniform(1000, 20_000, count)
            if rng.random() < 0.3:
                cents = np.full(count, float(rng.integers(300, 20_000)))
            self._add(time_ms, merchant, customer, card, device, network, cents, whole=True)

    def _batches(self) -> None:
        rng = self.rng
        for _ in range(self.world.batches):
            merchant = int(rng.integers(self.world.merchants))
            count = int(rng.integers(30, 301))
            begin = int(rng.integers(self.m_joined[merchant], self.end_ms - DAY_MS))
            time_ms = begin + rng.integers(0, int(rng.integers(1, 20)) * MINUTE_MS, count)
            device = self._new(1) if rng.random() < 0.3 else ABSENT
            network = self._new(1) if rng.random() < 0.5 else ABSENT
            customer = self._new(1) if rng.random() < 0.8 else ABSENT
            cents = rng.uniform(300, 20_000) * np.exp(rng.normal(0, rng.uniform(0, 0.4), count))
            card = self._new(1)
            self._add(time_ms, merchant, customer, card, device, network, cents, whole=True)

    # Fraud.

    def _card_tests(self) -> None:
        rng = self.rng
        for _ in range(self.world.card_tests):
            merchant, begin = self._victim()
            tries = int(rng.integers(8, 31))
            gaps = rng.exponential(int(rng.integers(5_000, 30_000)), tries)
            time_ms = begin + np.cumsum(gaps).astype(np.int64)
            cards = self._new(tries)
            device = self._new(1)
            network = self._new(1) if rng.random() < 0.75 else self._shared(1)
            customer = self._new(tries) if rng.random() < 0.5 else np.full(tries, self._new(1))
            if rng.random() < 0.35:
                customer = np.full(tries, ABSENT)
            cents = rng.uniform(50, 400, tries)
            declined = rng.random(tries) < 0.5
            spree = int(rng.integers(1, 4)) if rng.random() < 0.75 else 0
            if spree:
                later = rng.integers(5_000, HOUR_MS // 2, spree)
                time_ms = np.r_[time_ms, time_ms[-1] + np.sort(later)]
                cards = np.r_[cards, rng.choice(cards, spree)]
                customer = np.r_[customer, np.full(spree, customer[-1])]
                cents = np.r_[cents, rng.uniform(15_000, 120_000, spree)]
                declined = np.r_[declined, rng.random(spree) < 0.3]
            self._add(
                time_ms,
                merchant,
                customer,
                cards,
                device,
                network,
                cents,
                scenario=CARD_TESTING,
                declined=declined,
            )

    def _takeovers(self) -> None:
        rng = self.rng
        known = np.flatnonzero(self.c_payments >= 4)
        for who in rng.choice(known, self.world.takeovers, replace=False).tolist():
            count = int(rng.integers(2, 6))
            left = int(self.c_left[who])
            begin = int(rng.integers((int(self.c_joined[who]) + left) // 2, left))
            time_ms = begin + np.sort(rng.integers(0, HOUR_MS, count))
            cents = np.maximum(self.c_level[who] * rng.uniform(3, 10, count), 8_000)
            card = self.c_cards[0, who] if rng.random() < 0.7 else self._new(1)
            self._add(
                time_ms,
                int(self.c_merchant[who]),
                self.c_id[who],
                card,
                self._new(1),
                self._new(1),
                cents,
                scenario=TAKEOVER,
                declined=rng.random(count) < 0.25,
            )

    def _stolen_cards(self) -> None:
        rng = self.rng
        for _ in range(self.world.stolen_cards):
            merchant, begin = self._victim()
            count = int(rng.integers(1, 4))
            network = self._new(1) if rng.random() < 0.8 else self._shared(1)
            self._add(
                begin + np.sort(rng.integers(0, HOUR_MS, count)),
                merchant,
                self._new(1),
                self._new(1),
                self._new(1),
                network,
                rng.uniform(40_000, 250_000, count),
                scenario=STOLEN_CARD,
                declined=rng.random(count) < 0.35,
            )

    def _compromised_shops(self) -> None:
        rng = self.rng
        busiest = np.argsort(-self.m_weight)[: 4 * self.world.compromised_shops]
        chosen = rng.choice(busiest, self.world.compromised_shops, replace=False)
        for number, merchant in enumerate(chosen.tolist()):
            share = (number + 0.5) / len(chosen)
            begin = START_MS + int(share * (self.world.days - 22)) * DAY_MS
            shop = int(rng.integers(0, max(1, int(self.m_shops[merchant]))))
            here = (self.c_joined < begin) & (self.c_left > begin)
            victims = np.flatnonzero((self.c_merchant == merchant) & here)
            count = min(120, len(victims))
            who = rng.choice(victims, count, replace=False)
            self._add(
                begin + np.sort(rng.integers(0, 21 * DAY_MS, count)),
                merchant,
                self._new(count),
                self.c_cards[0, who],
                self._new(count),
                self._new(count),
                self.c_level[who] * rng.uniform(2, 6, count) + 6_000,
                scenario=COMPROMISED,
                shop=np.full(count, shop),
                declined=rng.random(count) < 0.2,
            )

    def _night_buyers(self) -> None:
        rng = self.rng
        for _ in range(self.world.night_buyers):
            merchant, begin = self._victim()
            midnight = begin // DAY_MS * DAY_MS
            self._add(
                np.array([midnight + int(rng.integers(0, 5 * HOUR_MS))]),
                merchant,
                self._new(1),
                self._new(1),
                self._new(1),
                self._new(1),
                rng.uniform(30_000, 90_000, 1),
                scenario=NIGHT_BUYER,
                declined=rng.random(1) < 0.2,
            )

    # Shared pieces.

    def _new(self, count: int) -> Ints:
        """Names never used before."""
        self.names += count
        return np.arange(self.names - count, self.names, dtype=np.int64)

    def _shared(self, count: int) -> Ints:
        """Networks that many unrelated payers use."""
        return np.asarray(self.rng.choice(self.shared_networks, count))

    def _country(self, merchants: Ints, foreign: float) -> Ints:
        """Where payers are at home: mostly where their merchant is."""
        rng = self.rng
        elsewhere = rng.integers(0, len(_COUNTRIES), len(merchants))
        return np.where(rng.random(len(merchants)) < foreign, elsewhere, self.m_country[merchants])

    def _victim(self) -> tuple[int, int]:
        """A merchant and a moment at which it is attacked."""
        weights = np.sqrt(self.m_weight)
        merchant = int(self.rng.choice(self.world.merchants, p=weights / weights.sum()))
        begin = int(self.rng.integers(self.m_joined[merchant], self.end_ms - 2 * HOUR_MS))
        return merchant, begin

    def _twin_of(self, merchant: int) -> int:
        """A merchant without any past that is otherwise like the given one."""
        for name in _TWINS_SHARE:
            column = getattr(self, name)
            setattr(self, name, np.r_[column, column[merchant]])
        return len(self.m_level) - 1

    def _at_shop_hours(self, time_ms: Ints, merchant: Ints) -> Ints:
        """Moves times to hours around the merchant's peak; some merchants sell at any hour."""
        rng, count = self.rng, len(time_ms)
        hour = (self.m_peak_hour[merchant] + rng.normal(0, 4.5, count)) % 24
        shop = time_ms // DAY_MS * DAY_MS + (hour * HOUR_MS).astype(np.int64)
        any_hour = self.m_any_hour[merchant] | (rng.random(count) < 0.15)
        return np.asarray(np.where(any_hour, time_ms, shop))

    def _add(
        self,
        time_ms: Ints,
        merchant: Ints | int,
        customer: Ints | int,
        card: Ints | int,
        device: Ints | int,
        network: Ints | int,
        cents: NDArray[np.float64],
        *,
        scenario: int = HONEST,
        declined: NDArray[np.bool_] | None = None,
        whole: bool = False,
        shop: Ints | None = None,
        country: Ints | None = None,
    ) -> None:
        """Adds payments; `whole` keeps missing inputs as drawn, else the merchant decides."""
        rng, count = self.rng, len(time_ms)
        columns = [np.broadcast_to(c, count) for c in (merchant, customer, card, device, network)]
        merchants, customers, cards, devices, networks = columns
        if not whole:
            lost = rng.random(count) < 0.03
            customers = np.where(self.m_customer[merchants], customers, ABSENT)
            devices = np.where(self.m_device[merchants] & ~lost, devices, ABSENT)
            networks = np.where(self.m_network[merchants] & ~lost, networks, ABSENT)
        if declined is None:
            declined = rng.random(count) < 0.04
        told = declined & self.m_reports[merchants]
        scenarios = np.full(count, scenario)
        if scenario == HONEST:
            scenarios = np.where(rng.random(count) < 0.001, REPORTED, HONEST)
        if shop is None:
            shop = (rng.random(count) * self.m_shops[merchants]).astype(np.int64)
        if country is None:
            foreign = _FOREIGN if scenario == HONEST else _FOREIGN_FRAUD
            country = self._country(merchants, foreign)
        days = rng.integers(DAY_MS, 7 * DAY_MS, count)
        currency = self.m_currency[merchants]
        self.blocks.append(
            {
                "time_ms": time_ms,
                "merchant": merchants,
                "terminal": np.where(
                    self.m_shops[merchants] > 0, merchants * _SHOPS_MAX + shop, ABSENT
                ),
                "category": self.m_category[merchants],
                "country": np.where(self.m_tells_country[merchants], country, ABSENT),
                "customer": customers,
                "card": cards,
                "device": devices,
                "network": networks,
                "amount_minor": _minor_units(cents, currency),
                "currency": currency,
                "scenario": scenarios,
                "declined_ms": np.where(told, time_ms + 2_000, NEVER),
                "known_ms": np.where(scenarios != HONEST, time_ms + days, NEVER),
            }
        )

    def _stream(self) -> Stream:
        names = self.blocks[0].keys()
        columns = {name: np.concatenate([block[name] for block in self.blocks]) for name in names}
        inside = np.flatnonzero(
            (columns["time_ms"] >= START_MS) & (columns["time_ms"] < self.end_ms)
        )
        order = inside[np.argsort(columns["time_ms"][inside], kind="stable")]
        columns = {name: column[order] for name, column in columns.items()}
        kept = ("time_ms", "amount_minor", "known_ms", "customer", "terminal")
        further = ("scenario", "declined_ms")
        texts: dict[str, Sequence[str]] = {
            "currency": _CURRENCIES,
            "category": _CATEGORIES,
            "country": _COUNTRIES,
            "network": [_address(n) for n in range(self.names)],
        }
        return Stream(
            fraud=np.asarray(columns["scenario"] != HONEST),
            codes={n: c for n, c in columns.items() if n not in (*kept, *further)},
            names=texts,
            **{name: columns[name] for name in (*kept, *further)},
        )


def _minor_units(cents: NDArray[np.float64], currency: Ints) -> Ints:
    """Turns drawn sizes into whole amounts; the only place where a size is not yet money."""
    per_million = np.array([reference_cents(1_000_000, code) for code in _CURRENCIES])
    amounts = np.rint(cents * 1_000_000 / per_million[currency]).astype(np.int64)
    return np.asarray(np.clip(amounts, 1, 99_999_999))
