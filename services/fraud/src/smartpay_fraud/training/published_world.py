"""A seeded stream by the process that the Fraud Detection Handbook publishes, in NumPy.

Figures on it compare with the book's tables; nothing in it is easier than in the book. The process
(Le Borgne et al., Fraud Detection Handbook, chapter 3, "Transaction data simulator"):
- Customers and terminals lie uniformly in a square of 100 x 100; a customer uses the terminals
  within a distance of 5, each equally often.
- A customer pays Poisson(U(0, 4)) times a day, around noon (normal, sd 20,000 s; times outside the
  day are dropped), amounts normal around U(5, 100) with half of it as sd; a negative amount is
  drawn again, uniformly up to twice the mean.
- Fraud 1: every payment above 220. Fraud 2: two terminals a day are compromised for 28 days, all
  their payments are frauds. Fraud 3: three customers a day for 14 days, a third of their payments
  is a fraud of five times the amount.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from smartpay_fraud.training.stream import LABEL_DELAY_MS, NEVER, Ints, Stream

FIRST_DAY = datetime(2018, 4, 1, tzinfo=UTC)
"""The published stream begins on this day; so test weeks fall on equal weekdays."""

_DAY_S = 86_400
_LARGE = 220.0
_TERMINALS_A_DAY, _TERMINAL_DAYS = 2, 28
_CUSTOMERS_A_DAY, _CUSTOMER_DAYS, _RAISED = 3, 14, 5.0


@dataclass(frozen=True)
class PublishedWorld:
    """How large the world is; the defaults are the published ones."""

    seed: int = 20_180_401
    days: int = 183
    customers: int = 5_000
    terminals: int = 10_000
    radius: float = 5.0


@dataclass(frozen=True)
class PublishedStream:
    """Payments in order of time; `second` counts from the first day's midnight, amounts in cents.

    `scenario` is 0 for an honest payment, else the number of the fraud.
    """

    second: Ints
    customer: Ints
    terminal: Ints
    amount_cents: Ints
    scenario: Ints

    def __len__(self) -> int:
        return len(self.second)


def generate(world: PublishedWorld | None = None) -> PublishedStream:
    """Draws the whole stream; equal worlds give equal streams, bit for bit."""
    world = world or PublishedWorld()
    rng = np.random.default_rng(world.seed)
    starts, reachable = _reachable(world, rng)
    mean = rng.uniform(5, 100, world.customers)
    rate = rng.uniform(0, 4, world.customers)
    rate[np.diff(starts) == 0] = 0  # nowhere to pay
    daily = rng.poisson(rate[:, None], (world.customers, world.days))
    customer = np.repeat(np.arange(world.customers), daily.sum(axis=1))
    day = np.repeat(np.tile(np.arange(world.days), world.customers), daily.ravel())
    of_day = np.trunc(rng.normal(_DAY_S / 2, 20_000, len(customer))).astype(np.int64)
    inside = (of_day > 0) & (of_day < _DAY_S)
    customer, day, of_day = customer[inside], day[inside], of_day[inside]
    drawn = rng.normal(mean[customer], mean[customer] / 2)
    again = rng.uniform(0, 2 * mean[customer])
    paid = np.round(np.where(drawn < 0, again, drawn), 2).astype(np.float64)
    choices = np.diff(starts)[customer]
    pick = (rng.random(len(customer)) * choices).astype(np.int64)
    place = reachable[starts[customer] + pick]
    order = np.argsort(day * _DAY_S + of_day, kind="stable")
    customer, day, of_day, terminal = (ids[order] for ids in (customer, day, of_day, place))
    amount = paid[order]
    scenario = np.where(amount > _LARGE, 1, 0).astype(np.int64)
    by_terminal, by_customer = _Index(terminal), _Index(customer)
    for first in range(world.days):
        for victim in rng.choice(world.terminals, _TERMINALS_A_DAY, replace=False).tolist():
            of = by_terminal.rows(victim)
            scenario[of[(day[of] >= first) & (day[of] < first + _TERMINAL_DAYS)]] = 2
    for first in range(world.days):
        for victim in rng.choice(world.customers, _CUSTOMERS_A_DAY, replace=False).tolist():
            of = by_customer.rows(victim)
            of = of[(day[of] >= first) & (day[of] < first + _CUSTOMER_DAYS)]
            hit = rng.choice(of, len(of) // 3, replace=False)
            amount[hit] *= _RAISED
            scenario[hit] = 3
    cents = np.rint(amount * 100).astype(np.int64)
    return PublishedStream(day * _DAY_S + of_day, customer, terminal, cents, scenario)


def as_stream(world: PublishedWorld | None = None) -> Stream:
    """The world as training reads it; a fraud becomes known a week later."""
    drawn = generate(world)
    time_ms = int(FIRST_DAY.timestamp()) * 1000 + drawn.second * 1000
    fraud = drawn.scenario > 0
    return Stream(
        time_ms=time_ms,
        amount_minor=drawn.amount_cents,
        fraud=fraud,
        known_ms=np.where(fraud, time_ms + LABEL_DELAY_MS, NEVER),
        customer=drawn.customer,
        terminal=drawn.terminal,
        scenario=drawn.scenario,
    )


class _Index:
    """Finds the rows of one id without scanning the stream."""

    def __init__(self, ids: Ints) -> None:
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def rows(self, wanted: int) -> Ints:
        first, last = np.searchsorted(self._sorted, [wanted, wanted + 1])
        return self._order[first:last]


def _reachable(world: PublishedWorld, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Terminals within each customer's radius: customer c's are [starts[c], starts[c + 1])."""
    home = rng.uniform(0, 100, (world.customers, 2))
    place = rng.uniform(0, 100, (world.terminals, 2))
    counts, parts = [0], []
    for block in np.array_split(home, max(1, world.customers // 500)):
        apart = ((block[:, None, :] - place[None, :, :]) ** 2).sum(axis=2)
        near = apart < world.radius**2
        counts += near.sum(axis=1).tolist()
        parts.append(np.nonzero(near)[1])
    return np.cumsum(counts), np.concatenate(parts).astype(np.int64)
