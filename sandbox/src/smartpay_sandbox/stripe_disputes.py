"""Disputes of one Stripe account: evidence, and how they end (docs.stripe.com/testing#disputes).

As in Stripe's own test mode, the text of the evidence decides: winning_evidence wins at once,
any other that is submitted loses with losing_evidence and is under review otherwise.
"""

from __future__ import annotations

from smartpay_sandbox.stripe_account import Answer, StripeAccount, check_metadata
from smartpay_sandbox.stripe_dispute_objects import moved
from smartpay_sandbox.stripe_objects import Json
from smartpay_sandbox.stripe_refusals import invalid

_OPEN = ("needs_response", "under_review")


def update_dispute(account: StripeAccount, dispute_id: str, params: Json) -> Answer:
    """Take evidence, and hand it in when asked to."""
    check_metadata(params)
    disputed = _open(account, dispute_id)
    evidence = {**disputed["evidence"], **params.get("evidence", {})}
    details = {**disputed["evidence_details"], "has_evidence": bool(params.get("evidence"))}
    changes: Json = {"evidence": evidence, "evidence_details": details}
    if not params.get("submit", True):
        return Answer(200, account.put(disputed, **changes))
    details |= {
        "submission_count": details["submission_count"] + 1,
        "submission_method": "manual",
    }
    text = evidence["uncategorized_text"]
    if text == "losing_evidence":
        return Answer(200, account.put(disputed, **changes, status="lost"))
    if text != "winning_evidence":
        return Answer(200, account.put(disputed, **changes, status="under_review"))
    back = moved(disputed, disputed["amount"], account.clock())
    account.put(back)
    kept = [*disputed["balance_transactions"], back]
    return Answer(200, account.put(disputed, **changes, status="won", balance_transactions=kept))


def close_dispute(account: StripeAccount, dispute_id: str) -> Answer:
    """Give a dispute up."""
    return Answer(200, account.put(_open(account, dispute_id), status="lost"))


def _open(account: StripeAccount, dispute_id: str) -> Json:
    disputed = account.find("dispute", dispute_id, "dispute")
    if disputed["status"] not in _OPEN:
        raise invalid("This dispute is already closed.", "dispute_closed")
    return disputed
