"""Who decides: lists first, then rules, then whatever the model's probability makes cheapest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from smartpay_fraud.domain.assessment import Decision
from smartpay_fraud.domain.features import Vector
from smartpay_fraud.domain.lists import Kind, Listing, Lists, ScreeningList
from smartpay_fraud.domain.reasons import REASONS_MAX, Reason
from smartpay_fraud.domain.rules import DEFAULT_RULES, Case, CompiledRules, RuleSet
from smartpay_fraud.domain.transaction import Transaction, reference_cents
from smartpay_fraud.domain.verdict import Costs, Policy, Verdict

_TEN_THOUSAND = 10_000

_KIND_WORDS: Mapping[Kind, str] = {
    Kind.CUSTOMER: "customer",
    Kind.INSTRUMENT: "card or wallet",
    Kind.DEVICE: "device",
    Kind.NETWORK: "network address",
    Kind.COUNTRY: "country",
    Kind.TERMINAL: "place of sale",
    Kind.CATEGORY: "merchant category",
}


def decide(
    transaction: Transaction,
    row: Vector,
    probability: float,
    costs: Costs,
    policy: Policy,
    lists: Lists,
    rules: CompiledRules,
    now_ms: int,
) -> Decision:
    """Judges one payment.

    A list that blocks or allows is final, and so is the first rule that does. Those that ask for a
    review let the others go on; in the end the verdict is a review at least.

    Args:
        transaction: what is to be paid, by whom.
        row: its base features.
        probability: the model's; it comes back unchanged.
        costs: the model's own, for a policy that states none.
        policy: the merchant's.
        lists: the merchant's.
        rules: the merchant's.
        now_ms: when it is judged.
    """
    on = [each for each in lists.values() if each.holds(transaction, now_ms)] if lists else ()
    matched_lists = tuple([listing.about.list_id for listing in on])
    version = rules.rule_set.version
    for final in (Verdict.BLOCK, Verdict.ALLOW) if on else ():
        if said := [_list_reason(each) for each in on if each.about.verdict is final]:
            said = said[:REASONS_MAX]
            return Decision(final, probability, tuple(said), version, (), matched_lists)
    asks = [_list_reason(each) for each in on if each.about.verdict is Verdict.REVIEW]
    matches = rules.matches(Case(transaction, row, probability, lists, now_ms))
    matched_rules = tuple([match.rule.rule_id for match in matches])
    for match in matches:
        final, reason = match.rule.verdict, match.reason
        if final is not Verdict.REVIEW:
            return Decision(final, probability, (reason,), version, matched_rules, matched_lists)
        asks.append(reason)
    cents = reference_cents(transaction.amount_minor, transaction.currency_code)
    reviews = not policy.reviews_disabled
    verdict, control = (policy.costs or costs).verdict(probability, cents, reviews=reviews), False
    if not asks and verdict is not Verdict.ALLOW and _passes_by_chance(transaction, cents, policy):
        asks.append(_control_reason(policy, verdict))
        verdict, control = Verdict.ALLOW, True
    elif asks and verdict is Verdict.ALLOW:
        verdict = Verdict.REVIEW
    return Decision(
        verdict,
        probability,
        tuple(asks[:REASONS_MAX]),
        version,
        matched_rules,
        matched_lists,
        opens_review=reviews and verdict is Verdict.REVIEW,
        control=control,
    )


def _list_reason(listing: Listing) -> Reason:
    about = listing.about
    verdict = about.verdict.value if about.verdict else "ONLY_RULES"
    message = f'The {_KIND_WORDS[about.kind]} is on the list "{about.name}".'
    return Reason(f"LIST_{verdict}", message, 0.0)


def _control_reason(policy: Policy, verdict: Verdict) -> Reason:
    """Keeps the propensity with the assessment: later estimates weigh by it."""
    share = policy.control_basis_points
    stopped = "reviewed" if verdict is Verdict.REVIEW else "blocked"
    message = f"Let through by lot: {share} in 10,000 that would be {stopped} pass, to learn from."
    return Reason("CONTROL_SHARE", message, 0.0, {"propensity": share / _TEN_THOUSAND})


def _passes_by_chance(transaction: Transaction, cents: int, policy: Policy) -> bool:
    """Draws the lot of a payment: the same one whenever it is judged again."""
    if cents > policy.control_cents_max or not policy.control_basis_points:
        return False
    text = "\n".join(map(str, ("control", *transaction.key)))
    lot = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % _TEN_THOUSAND
    return lot < policy.control_basis_points


_DEFAULT = CompiledRules(DEFAULT_RULES)


@dataclass(slots=True)
class Book:
    """What one merchant wants in one mode.

    Attributes:
        policy: the costs of mistakes.
        rules: the rules in force.
        listings: the lists by id.
    """

    policy: Policy = field(default_factory=Policy)
    rules: CompiledRules = _DEFAULT
    listings: dict[str, Listing] = field(default_factory=dict)


_NOBODYS = Book()


class Rulebook:
    """The books of all merchants, in memory; whoever stores a change tells it at once.

    A merchant that never changed anything has the default book.
    """

    def __init__(self) -> None:
        self._books: dict[tuple[str, bool], Book] = {}

    def book(self, merchant_id: str, livemode: bool) -> Book:
        """The merchant's book as it is now."""
        return self._books.get((merchant_id, livemode), _NOBODYS)

    def decide(
        self,
        transaction: Transaction,
        row: Vector,
        probability: float,
        costs: Costs,
        now_ms: int,
    ) -> Decision:
        """Judges one payment by its merchant's book; see `decide`."""
        book = self.book(transaction.merchant_id, transaction.livemode)
        return decide(
            transaction, row, probability, costs, book.policy, book.listings, book.rules, now_ms
        )

    def put_policy(self, merchant_id: str, livemode: bool, policy: Policy) -> None:
        """Puts a policy in force."""
        self._own(merchant_id, livemode).policy = policy

    def put_rules(self, merchant_id: str, livemode: bool, rule_set: RuleSet) -> None:
        """Puts rules in force."""
        self._own(merchant_id, livemode).rules = CompiledRules(rule_set)

    def put_lists(self, listings: Iterable[Listing]) -> None:
        """Puts lists in force, in the place of those with the same id."""
        for listing in listings:
            about = listing.about
            self._own(about.merchant_id, about.livemode).listings[about.list_id] = listing

    def listing(self, about: ScreeningList) -> Listing:
        """The list in force with this id, to be changed; a new one when there is none."""
        own = self._own(about.merchant_id, about.livemode).listings
        return own.setdefault(about.list_id, Listing(about))

    def drop_list(self, merchant_id: str, livemode: bool, list_id: str) -> None:
        """Forgets a list."""
        self._own(merchant_id, livemode).listings.pop(list_id, None)

    def _own(self, merchant_id: str, livemode: bool) -> Book:
        return self._books.setdefault((merchant_id, livemode), Book())
