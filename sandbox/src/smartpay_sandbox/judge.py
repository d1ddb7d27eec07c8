"""The judge of a chaos run: compares what we say with what the outside world holds.

It trusts only the sandbox's own dumps and what callers were told. Every broken promise is one
sentence that begins with the kind of the crime; an empty list is the verdict "nothing was lost".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from smartpay_sandbox.judge_rails import (
    Sent,
    Taking,
    amazon_pay_takings,
    returned,
    stripe_takings,
    transfers,
)

OPEN = {"STATUS_PROCESSING", "STATUS_UNKNOWN"}
FINAL = {"STATUS_SUCCEEDED", "STATUS_FAILED", "STATUS_BLOCKED", "STATUS_CANCELED"}
"""A payment that was answered as one of these stays that."""
OPEN_REFUNDS = {"STATUS_PENDING", "STATUS_UNKNOWN"}
SOLANA = "PROCESSOR_SOLANA"


@dataclass
class Evidence:
    """All that a verdict needs, as JSON objects of the REST answers and the dumps."""

    payments: Sequence[Mapping[str, Any]]
    """Every payment of the merchant, each as GET /payments/{id} shows it."""
    events: Sequence[tuple[str, int, str]]
    """(payment id, sequence, status) of every event of the log, in order."""
    answers: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Payments and refunds that callers were told of, by what they were asked for with."""
    stripe: Mapping[str, Any] = field(default_factory=lambda: {"accounts": {}})
    """GET /control/stripe/dump."""
    amazon_pay: Mapping[str, Any] = field(default_factory=lambda: {"merchants": {}})
    """GET /control/amazon_pay/dump."""
    solana: Mapping[str, Any] = field(default_factory=lambda: {"transfers": {}, "refunds": {}})
    """GET /control/solana/dump."""
    recipients: Sequence[str] = ()
    """The wallets that payers pay into."""
    mints: Mapping[str, str] = field(default_factory=dict)
    """The currency of each mint that payers may pay with; "" is SOL's."""
    dust: Mapping[str, int] = field(default_factory=dict)
    """By currency, up to which amount too much is kept."""
    watched: Sequence[tuple[str, int, str]] | None = None
    """What a consumer saw that went on from its own cursor through every crash; None without."""
    rewards: Sequence[Mapping[str, Any]] | None = None
    """Every reward of the merchant, as GET /rewards lists them; None where rewards is away."""
    reward_mint: str = ""
    """Address of the reward token's mint."""
    supply_before: int = 0
    """Reward tokens in base units that existed before the run."""

    @cached_property
    def takings(self) -> list[Taking]:
        """What the card and wallet rails hold."""
        return [*stripe_takings(self.stripe), *amazon_pay_takings(self.amazon_pay)]

    @cached_property
    def sent(self) -> dict[str, list[Sent]]:
        """What payers sent, by reference."""
        return transfers(self.solana, self.recipients, self.mints)


def judge(evidence: Evidence) -> list[str]:
    """Answers every broken promise, as a sentence each."""
    return [
        *_stuck(evidence),
        *_charges(evidence),
        *_refunds(evidence),
        *_coins(evidence),
        *_ledgers(evidence),
        *_totals(evidence),
        *_answers(evidence),
        *_events(evidence),
        *_rewards(evidence),
    ]


def minor(money: Mapping[str, Any] | None) -> int:
    """Reads an amount; 0 when there is none."""
    return int((money or {}).get("minorUnits", 0))


def _stuck(evidence: Evidence) -> Iterable[str]:
    for payment in evidence.payments:
        name, status = payment["paymentId"], payment["status"]
        if status not in (*FINAL, "STATUS_REQUIRES_CAPTURE"):
            yield f"stuck: {name} is {status} ({payment.get('statusReason', '')})"
        for refund in payment.get("refunds", ()):
            if refund["status"] in OPEN_REFUNDS or refund["status"] == "STATUS_NEEDS_REVIEW":
                yield f"stuck: {refund['refundId']} of {name} is {refund['status']}"


# ---- money that came in ----------------------------------------------------------------------


def _charges(evidence: Evidence) -> Iterable[str]:
    known = {p["paymentId"]: p for p in evidence.payments}
    by_payment: dict[str, list[Taking]] = defaultdict(list)
    late = _given_back(evidence)
    for taking in evidence.takings:
        if taking.object_id not in late:
            by_payment[taking.payment_id].append(taking)
    for payment_id, takings in by_payment.items():
        payment = known.get(payment_id)
        captured = [t.captured for t in takings if t.captured]
        if payment is None:
            yield (
                f"lost charge: {takings[0].rail} holds {takings[0].object_id} for"
                f" {payment_id!r}, unknown to us"
            )
            continue
        if len(takings) > 1:
            where = ", ".join(f"{t.rail} {t.object_id}" for t in takings)
            yield f"double charge: {payment_id} was charged {len(takings)} times: {where}"
        if payment["status"] in OPEN:
            continue  # nothing is said yet; for ever, and it is stuck
        if captured and payment["status"] != "STATUS_SUCCEEDED":
            yield f"lost charge: {payment_id} was charged and is {payment['status']}"
        elif captured and minor(payment["capturedAmount"]) != sum(captured):
            yield f"{payment_id}: we say {minor(payment['capturedAmount'])}, taken is {captured}"
        if not captured and payment["status"] != "STATUS_REQUIRES_CAPTURE":
            yield f"lost hold: {payment_id} is {payment['status']} and its money is held"
    for payment in evidence.payments:
        payment_id, status = payment["paymentId"], payment["status"]
        took = sum(t.captured for t in by_payment.get(payment_id, ()))
        took += sum(s.minor for s in _sent_to(evidence, payment))
        if status == "STATUS_SUCCEEDED" and took < max(1, minor(payment["capturedAmount"])):
            yield f"success without a charge: {payment_id} ({took})"
        held = any(t.held for t in by_payment.get(payment_id, ()))
        if status == "STATUS_REQUIRES_CAPTURE" and not held:
            yield f"authorization without a hold: {payment_id}"


def _given_back(evidence: Evidence) -> set[str]:
    """Names the charges that came too late and were given back whole, as too much."""
    surplus = {
        name
        for payment in evidence.payments
        for refund in payment.get("refunds", ())
        if refund["reason"] == "REASON_OVERPAYMENT" and refund["status"] == "STATUS_SUCCEEDED"
        for name in (refund["refundId"], refund.get("processorRefundId", ""))
    }
    return {
        taking.object_id
        for taking in evidence.takings
        if taking.captured
        and taking.captured == sum(amount for name, amount in taking.refunds if name in surplus)
    }


def _sent_to(evidence: Evidence, payment: Mapping[str, Any]) -> list[Sent]:
    references = [
        a["processorPaymentId"]
        for a in payment.get("attempts", ())
        if a["processor"] == SOLANA and a.get("processorPaymentId")
    ]
    return [sent for reference in references for sent in evidence.sent.get(reference, ())]


# ---- money that went back --------------------------------------------------------------------


def _refunds(evidence: Evidence) -> Iterable[str]:
    by_payment: dict[str, list[Taking]] = defaultdict(list)
    late = _given_back(evidence)
    for taking in evidence.takings:
        if taking.object_id not in late:
            by_payment[taking.payment_id].append(taking)
    for payment in evidence.payments:
        if _is_on_chain(payment):
            continue
        takings = by_payment.get(payment["paymentId"], [])
        given = [refund for taking in takings for refund in taking.refunds]
        for name, times in Counter(name for name, _ in given).items():
            if times > 1:
                yield f"double refund: {name} was given back {times} times"
        total, said = sum(amount for _, amount in given), minor(payment["refundedAmount"])
        if total != said:
            yield f"refunds of {payment['paymentId']}: we say {said}, given back is {total}"
        if total > sum(t.captured for t in takings):
            yield f"over-refund: {payment['paymentId']} gave back {total}"


def _is_on_chain(payment: Mapping[str, Any]) -> bool:
    return any(a["processor"] == SOLANA for a in payment.get("attempts", ()))


def _coins(evidence: Evidence) -> Iterable[str]:
    """Judges the rail where payers send: all is booked, and what is too much goes back once."""
    back = returned(evidence.solana)
    claimed: set[str] = set()
    references: set[str] = set()
    for payment in evidence.payments:
        if not _is_on_chain(payment):
            continue
        name, currency = payment["paymentId"], payment["amount"]["currencyCode"]
        references |= {a.get("processorPaymentId", "") for a in payment["attempts"]}
        sent = _sent_to(evidence, payment)
        kept = minor(payment["capturedAmount"])
        total = sum(s.minor for s in sent)
        if minor(payment["overpaidAmount"]) != total - kept:
            yield (
                f"overpayment: {name} got {total}, keeps {kept} and says"
                f" {minor(payment['overpaidAmount'])} is too much"
            )
        given: Counter[str] = Counter()
        too_much = 0
        for refund in payment.get("refunds", ()):
            if refund["status"] != "STATUS_SUCCEEDED":
                continue
            mark = refund.get("processorRefundId", "")
            paid = back.get(mark)
            if paid is None or paid.minor != minor(refund["amount"]) or mark in claimed:
                yield f"refund without a payment: {refund['refundId']} of {name}"
                continue
            claimed.add(mark)
            given[paid.payee] += paid.minor
            if refund["reason"] == "REASON_OVERPAYMENT":
                too_much += paid.minor
        payers = Counter[str]()
        for each in sent:
            payers[each.payer] += each.minor
        for payee, amount in given.items():
            if amount > payers[payee]:
                yield f"over-refund: {payee} sent {payers[payee]} to {name} and got {amount}"
        owed = total - kept
        # Of each transfer so much may stay as is not worth its fee.
        left = owed - too_much
        if left < 0 or left > len(sent) * evidence.dust.get(currency, 0):
            yield f"overpayment: of {owed} too much for {name}, {too_much} went back"
    for reference in evidence.sent.keys() - references:
        yield f"lost charge: a transfer names {reference}, which is nobody's"
    for mark in back.keys() - claimed:
        yield f"refund unknown to us: {mark} on the chain"


# ---- the books -------------------------------------------------------------------------------


def _ledgers(evidence: Evidence) -> Iterable[str]:
    for payment in evidence.payments:
        sums: Counter[tuple[str, str]] = Counter()
        captured = 0
        for entry in payment.get("ledger", ()):
            amount = minor(entry["amount"])
            sums[entry["transactionId"], entry["amount"]["currencyCode"]] += amount
            if entry["transactionId"] == "capture" and amount > 0:
                captured += amount
        for (transaction, _), total in sums.items():
            if total:
                yield f"ledger: {transaction} of {payment['paymentId']} sums to {total}"
        if captured != minor(payment["capturedAmount"]):
            yield f"ledger: {payment['paymentId']} captured {captured} by the ledger"


def _totals(evidence: Evidence) -> Iterable[str]:
    """Compares the books with the processors, per account and currency."""
    booked: Counter[tuple[str, str, str]] = Counter()
    actual: Counter[tuple[str, str, str]] = Counter()
    takings = {t.object_id: t for t in evidence.takings}
    back = returned(evidence.solana)
    for payment in evidence.payments:
        for entry in payment.get("ledger", ()):
            kind, _, account = entry["account"].partition(":")
            if kind == "hold":
                booked["held", account, entry["amount"]["currencyCode"]] += minor(entry["amount"])
            elif kind in ("processor", "fees"):
                # What the processor keeps as its fee has left the one for the other.
                booked["owed", account, entry["amount"]["currencyCode"]] += minor(entry["amount"])
        for attempt in payment.get("attempts", ()):
            account, currency = attempt["processorAccountId"], payment["amount"]["currencyCode"]
            taking = takings.get(attempt.get("processorPaymentId", ""))
            if taking is not None:
                given = sum(amount for _, amount in taking.refunds)
                actual["owed", account, currency] += taking.captured - given
                actual["held", account, currency] += taking.held
            sent = evidence.sent.get(attempt.get("processorPaymentId", ""), ())
            actual["owed", account, currency] += sum(s.minor for s in sent)
        paid_by = _paying_account(payment)
        for refund in payment.get("refunds", ()):
            paid = back.get(refund.get("processorRefundId", ""))
            if paid is not None:
                account = _account_sent_to(evidence, payment, refund) or paid_by
                actual["owed", account, payment["amount"]["currencyCode"]] -= paid.minor
    for key in booked.keys() | actual.keys():
        if booked[key] != actual[key]:
            what, account, currency = key
            yield (
                f"totals: {what} at {account} in {currency}: books {booked[key]},"
                f" truth {actual[key]}"
            )


def _paying_account(payment: Mapping[str, Any]) -> str:
    for attempt in payment.get("attempts", ()):
        if attempt["status"] == "STATUS_SUCCEEDED":
            return str(attempt["processorAccountId"])
    return ""


def _account_sent_to(
    evidence: Evidence, payment: Mapping[str, Any], refund: Mapping[str, Any]
) -> str:
    """Names the account whose surplus a refund gives back: where more came than was kept."""
    if refund["reason"] != "REASON_OVERPAYMENT":
        return ""
    for entry in payment.get("ledger", ()):
        if entry["transactionId"] == f"refund:{refund['refundId']}":
            kind, _, account = entry["account"].partition(":")
            if kind == "processor":
                return str(account)
    return ""


# ---- what was said ---------------------------------------------------------------------------


def _answers(evidence: Evidence) -> Iterable[str]:
    known = {p["paymentId"]: p for p in evidence.payments}
    log = {(payment_id, sequence): status for payment_id, sequence, status in evidence.events}
    for key, answers in evidence.answers.items():
        ids = {(a["paymentId"], a.get("refundId", "")) for a in answers}
        if len(ids) > 1:
            yield f"key {key} led to several answers: {sorted(ids)}"
        for answer in answers:
            payment = known.get(answer["paymentId"])
            if payment is None:
                yield f"an answered payment is gone: {answer['paymentId']}"
            elif "refundId" in answer:
                yield from _refund_answer(payment, answer)
            else:
                yield from _payment_answer(payment, answer, log)


def _payment_answer(
    payment: Mapping[str, Any],
    answer: Mapping[str, Any],
    log: Mapping[tuple[str, int], str],
) -> Iterable[str]:
    name = answer["paymentId"]
    is_late = payment.get("statusReason") == "charged_late"
    if answer["status"] in FINAL and payment["status"] != answer["status"] and not is_late:
        yield f"{name} was answered as {answer['status']} and is {payment['status']}"
    if answer["status"] == "STATUS_SUCCEEDED" and minor(answer["capturedAmount"]) != minor(
        payment["capturedAmount"]
    ):
        yield f"{name} was answered with another captured amount"
    sequence = int(answer["etag"].strip('"'))
    if log.get((name, sequence)) != answer["status"]:
        yield f"{name} was answered as {answer['status']}, which no event says"


def _refund_answer(payment: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterable[str]:
    refund_id = answer["refundId"]
    found = next((r for r in payment.get("refunds", ()) if r["refundId"] == refund_id), None)
    if found is None:
        yield f"an answered refund is gone: {refund_id}"
    elif answer["status"] not in OPEN_REFUNDS and found["status"] != answer["status"]:
        yield f"{refund_id} was answered as {answer['status']} and is {found['status']}"


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
    if evidence.watched is not None and set(evidence.watched) != set(evidence.events):
        missed = set(evidence.events) - set(evidence.watched)
        untrue = set(evidence.watched) - set(evidence.events)
        yield f"a consumer missed {len(missed)} events: {sorted(missed)[:3]}"
        yield f"a consumer was told {len(untrue)} events that are gone: {sorted(untrue)[:3]}"


def _rewards(evidence: Evidence) -> Iterable[str]:
    if evidence.rewards is None:
        return
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
    supply = int(evidence.solana["mints"][evidence.reward_mint]["supply"])
    granted = sum(int(r["tokenBaseUnits"]) for r in evidence.rewards)
    if supply - evidence.supply_before != granted:
        yield f"the chain minted {supply - evidence.supply_before}, the rewards say {granted}"
