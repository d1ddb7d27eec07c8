"""The judge of a chaos run: compares what we say with what the outside world holds.

It trusts only the sandbox's own dumps (Stripe's charges, the chain's mints) and what callers were
told. Every broken promise is one sentence; an empty list is the verdict "nothing was lost".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OPEN = {"STATUS_PROCESSING", "STATUS_UNKNOWN"}


@dataclass
class Evidence:
    """All that a verdict needs, as JSON objects of the REST answers and the dumps."""

    stripe: Mapping[str, Any]
    """GET /control/stripe/dump."""
    solana: Mapping[str, Any]
    """GET /control/solana/dump."""
    mint: str
    """Address of the reward token's mint."""
    payments: Sequence[Mapping[str, Any]]
    """Every payment of the merchant, each as GET /payments/{id} shows it."""
    rewards: Sequence[Mapping[str, Any]]
    """Every reward of the merchant, as GET /rewards lists them."""
    events: Sequence[tuple[str, int, str]]
    """(payment id, sequence, status) of every event of the log, in order."""
    answers: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Settled payments that callers were told of, by idempotency key."""
    supply_before: int = 0
    """Tokens in base units that existed before the run."""


def captured_charges(stripe: Mapping[str, Any]) -> dict[str, list[int]]:
    """Lists what Stripe took, in minor units, by our payment id; "" gathers strangers."""
    taken: dict[str, list[int]] = defaultdict(list)
    for account in stripe["accounts"].values():
        for intent in _values(account["payment_intents"]):
            if intent["amount_received"] > 0:
                payment_id = (intent.get("metadata") or {}).get("payment_id", "")
                taken[payment_id].append(intent["amount_received"])
    return taken


def judge(evidence: Evidence) -> list[str]:
    """Answers every broken promise, as a sentence each."""
    return [
        *_charges(evidence),
        *_ledgers(evidence),
        *_answers(evidence),
        *_events(evidence),
        *_rewards(evidence),
    ]


def _values(objects: Any) -> Iterable[Mapping[str, Any]]:  # noqa: ANN401 - a list or a mapping
    return objects.values() if isinstance(objects, Mapping) else objects


def _minor(money: Mapping[str, Any] | None) -> int:
    return int((money or {}).get("minorUnits", 0))


def _charges(evidence: Evidence) -> Iterable[str]:
    taken = captured_charges(evidence.stripe)
    known = {p["paymentId"]: p for p in evidence.payments}
    for payment_id, amounts in taken.items():
        if len(amounts) > 1:
            yield f"double charge: {payment_id} was charged {len(amounts)} times"
        payment = known.get(payment_id)
        if payment is None:
            yield f"lost charge: Stripe took {sum(amounts)} for {payment_id!r}, unknown to us"
        elif payment["status"] != "STATUS_SUCCEEDED":
            yield f"lost charge: {payment_id} was charged and is {payment['status']}"
        elif _minor(payment["capturedAmount"]) != sum(amounts):
            yield f"{payment_id}: we say {_minor(payment['capturedAmount'])}, Stripe {amounts}"
    for payment in evidence.payments:
        if payment["status"] == "STATUS_SUCCEEDED" and payment["paymentId"] not in taken:
            yield f"success without a charge: {payment['paymentId']}"
        if payment["status"] in OPEN:
            yield f"stuck: {payment['paymentId']} is {payment['status']}"


def _ledgers(evidence: Evidence) -> Iterable[str]:
    for payment in evidence.payments:
        sums: Counter[tuple[str, str]] = Counter()
        captured = 0
        for entry in payment.get("ledger", ()):
            amount = _minor(entry["amount"])
            sums[entry["transactionId"], entry["amount"]["currencyCode"]] += amount
            if entry["transactionId"] == "capture" and amount > 0:
                captured += amount
        for (transaction, _), total in sums.items():
            if total:
                yield f"ledger: {transaction} of {payment['paymentId']} sums to {total}"
        if captured != _minor(payment["capturedAmount"]):
            yield f"ledger: {payment['paymentId']} captured {captured} by the ledger"


def _answers(evidence: Evidence) -> Iterable[str]:
    known = {p["paymentId"]: p for p in evidence.payments}
    for key, answers in evidence.answers.items():
        ids = {a["paymentId"] for a in answers}
        if len(ids) > 1:
            yield f"key {key} led to several payments: {sorted(ids)}"
        for answer in answers:
            payment = known.get(answer["paymentId"])
            if payment is None:
                yield f"an answered payment is gone: {answer['paymentId']}"
            elif payment["status"] != answer["status"]:
                yield (
                    f"{answer['paymentId']} was answered as {answer['status']}"
                    f" and is {payment['status']}"
                )


def _events(evidence: Evidence) -> Iterable[str]:
    sequences: dict[str, list[int]] = defaultdict(list)
    last: dict[str, str] = {}
    for payment_id, sequence, status in evidence.events:
        sequences[payment_id].append(sequence)
        last[payment_id] = status
    for payment in evidence.payments:
        payment_id = payment["paymentId"]
        found = sequences.get(payment_id, [])
        if found != list(range(1, len(found) + 1)) or not found:
            yield f"events of {payment_id} have gaps: {found}"
        elif last[payment_id] != payment["status"]:
            yield f"the last event of {payment_id} says {last[payment_id]}"


def _rewards(evidence: Evidence) -> Iterable[str]:
    rewards = {r["paymentId"]: r for r in evidence.rewards}
    earned = {p["paymentId"] for p in evidence.payments if p["status"] == "STATUS_SUCCEEDED"}
    for payment_id in earned - rewards.keys():
        yield f"no reward for {payment_id}"
    for payment_id in rewards.keys() - earned:
        yield f"a reward for {payment_id}, which was not captured"
    for payment_id, reward in rewards.items():
        if reward["status"] != "STATUS_FINAL":
            yield f"the reward of {payment_id} is {reward['status']}"
    receipts = set(evidence.solana["receipts"])
    missing = {r["receiptAddress"] for r in evidence.rewards} - receipts
    if missing:
        yield f"{len(missing)} rewards have no receipt on the chain"
    supply = int(evidence.solana["mints"][evidence.mint]["supply"])
    granted = sum(int(r["tokenBaseUnits"]) for r in evidence.rewards)
    if supply - evidence.supply_before != granted:
        yield f"the chain minted {supply - evidence.supply_before}, the rewards say {granted}"
