"""What was decided about a transaction, and what was learned about it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from smartpay_fraud.domain.reasons import Reason
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict


class Shadow(NamedTuple):
    """What the challenger would have said; kept beside the answer, never answered."""

    model_version: str
    probability: float


class Decision(NamedTuple):
    """What to do with a payment, and who said so.

    Attributes:
        verdict: what to do.
        probability: the model's, unchanged: a rule decides, it does not forge the score.
        reasons: one per rule or list that decided.
        rules_version: the rules that were asked.
        matched_rules: ids of the rules that hold for the payment.
        matched_lists: ids of the lists it stands on.
        opens_review: a person shall look at it.
        control: let through by lot although it would have been stopped, to learn from it.
    """

    verdict: Verdict
    probability: float
    reasons: tuple[Reason, ...] = ()
    rules_version: int = 0
    matched_rules: tuple[str, ...] = ()
    matched_lists: tuple[str, ...] = ()
    opens_review: bool = False
    control: bool = False


class Assessment(NamedTuple):
    """What the service thinks of one transaction; once stored it never changes.

    Attributes:
        transaction: what was scored.
        verdict: what to do.
        score: calibrated probability of fraud, 0 to 1.
        reasons: rules first, then what raised the score most; at most four.
        model_version: the bundle that scored.
        rules_version: the rules that were asked.
        scored_ms: when, in milliseconds since the epoch.
        row: the base row as scored, float32 little endian; b"" when it was not read back.
        margin: what the model said before calibration, in log-odds.
        shadow: what the challenger said; None without one.
        matched_rules: ids of the rules that held for it.
        matched_lists: ids of the lists it stood on.
        opens_review: a person shall look at it.
        control: let through by lot although it would have been stopped.
    """

    transaction: Transaction
    verdict: Verdict
    score: float
    reasons: tuple[Reason, ...]
    model_version: str
    rules_version: int
    scored_ms: int
    row: bytes = b""
    margin: float = 0.0
    shadow: Shadow | None = None
    matched_rules: tuple[str, ...] = ()
    matched_lists: tuple[str, ...] = ()
    opens_review: bool = False
    control: bool = False


class Finding(Enum):
    """What was learned about a scored transaction afterwards; BLOCKED is our own verdict."""

    DECLINED = "DECLINED"
    BLOCKED = "BLOCKED"
    FRAUD = "FRAUD"
    LEGITIMATE = "LEGITIMATE"


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody's word on a transaction.

    Attributes:
        key: the transaction.
        name: tells this word from others on the same transaction; a repeat has the same name.
        finding: what it says.
        heard_ms: when it was said, in milliseconds since the epoch.
        known_ms: since when it was known; None: since it was first said.
    """

    key: TransactionKey
    name: str
    finding: Finding
    heard_ms: int
    known_ms: int | None


@dataclass(frozen=True, slots=True)
class Happening:
    """One stored entry as memory needs it: a scored transaction, or a finding about one.

    Attributes:
        transaction: which one.
        at_ms: when it was scored or when the finding became known.
        finding: None when the entry is the score itself.
        blocked: the score's verdict was BLOCK.
        score: the probability that was answered; None when the entry is a finding.
        is_remembered: a snapshot holds it already.
    """

    transaction: Transaction
    at_ms: int
    finding: Finding | None = None
    blocked: bool = False
    score: float | None = None
    is_remembered: bool = False
