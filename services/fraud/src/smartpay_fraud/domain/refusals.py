"""Everything the fraud service can refuse by its own rules."""

from __future__ import annotations

from smartpay_chassis.refusals import Kind, Refusal


def transaction_id_reused() -> Refusal:
    """Refuses another transaction under an id that was scored before."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "IDEMPOTENCY_KEY_REUSED",
        "The transaction_id was scored before with other input.",
        remedy="Use a fresh transaction_id, or repeat the first request unchanged.",
        field="transaction_id",
    )


def transaction_not_found() -> Refusal:
    """Refuses a label for a transaction that this merchant never had scored."""
    return Refusal(
        Kind.NOT_FOUND,
        "TRANSACTION_NOT_FOUND",
        "No such transaction of this merchant was scored.",
        remedy="Score the transaction first, with the same merchant's credentials.",
        field="transaction_id",
    )


def label_from_the_future() -> Refusal:
    """Refuses a label that claims to become known only later."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "FIELD_INVALID",
        "The known_time lies in the future.",
        remedy="Leave known_time out, or send the moment at which the outcome became known.",
        field="known_time",
    )


def scoring_queue_full() -> Refusal:
    """Refuses work that would only wait past its deadline."""
    return Refusal(
        Kind.RESOURCE_EXHAUSTED,
        "SCORING_QUEUE_FULL",
        "Too many transactions wait to be scored.",
        remedy="Wait a moment and repeat the call; nothing was counted.",
    )


def memory_unavailable() -> Refusal:
    """Refuses to score without knowing what other replicas saw."""
    return Refusal(
        Kind.UNAVAILABLE,
        "MEMORY_UNAVAILABLE",
        "The memory that the replicas share does not answer.",
        remedy="Repeat the call; nothing is counted twice.",
    )


def deadline_too_near() -> Refusal:
    """Refuses work whose caller would be gone before it is done."""
    return Refusal(
        Kind.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "The deadline is too near for the transaction to be scored in time.",
        remedy="Repeat the call with a longer deadline; nothing was counted.",
    )


def rule_invalid(field: str, sentence: str) -> Refusal:
    """Refuses a rule that can't be asked as it stands."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "RULE_INVALID",
        sentence,
        remedy="Correct the rule; nothing was changed.",
        field=field,
    )


def rules_changed(version: int) -> Refusal:
    """Refuses a change of rules that began from another version than the one in force."""
    return Refusal(
        Kind.ABORTED,
        "RULES_CHANGED",
        f"Version {version} of the rules is in force, not the one the change began from.",
        remedy="Read the rules, decide again, and send their version as base_version.",
        field="base_version",
        facts={"version": str(version)},
    )


def rules_version_not_found() -> Refusal:
    """Refuses a version that the merchant's rules never had."""
    return Refusal(
        Kind.NOT_FOUND,
        "RULES_VERSION_NOT_FOUND",
        "The rules never had such a version.",
        remedy="List the versions to see which there are.",
        field="version",
    )


def list_not_found() -> Refusal:
    """Refuses a list that this merchant doesn't have."""
    return Refusal(
        Kind.NOT_FOUND,
        "LIST_NOT_FOUND",
        "The merchant has no such list.",
        remedy="List the lists to see which there are.",
        field="list_id",
    )


def list_exists() -> Refusal:
    """Refuses a second list of the same name."""
    return Refusal(
        Kind.ALREADY_EXISTS,
        "LIST_EXISTS",
        "Another list has this name, with another kind, verdict or description.",
        remedy="Use the list that is there, or choose another name.",
        field="name",
    )


def list_in_use(rule_id: str) -> Refusal:
    """Refuses to remove a list that a rule looks into."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "LIST_IN_USE",
        f"The rule {rule_id} looks into the list.",
        remedy="Change the rules first.",
        field="list_id",
        facts={"rule": rule_id},
    )


def entry_invalid(field: str, sentence: str) -> Refusal:
    """Refuses a value that a list of this kind can't hold."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "ENTRY_INVALID",
        f"The value can't stand on this list: {sentence}.",
        remedy="Correct the value; nothing was changed.",
        field=field,
    )


def expiry_out_of_range(field: str) -> Refusal:
    """Refuses an expiry that no calendar has."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "FIELD_INVALID",
        "The expire_time lies before 1970 or after 9999.",
        remedy="Send a moment between them, or leave it out for an entry that never expires.",
        field=field,
    )


def limit_reached(what: str, limit: int) -> Refusal:
    """Refuses one more than there may be."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "LIMIT_REACHED",
        f"There may be {limit} {what} at most.",
        remedy="Remove what is not needed any more.",
        facts={"limit": str(limit)},
    )


def etag_mismatch() -> Refusal:
    """Refuses a change by somebody who has not seen the last one."""
    return Refusal(
        Kind.ABORTED,
        "ETAG_MISMATCH",
        "Somebody changed it since it was read.",
        remedy="Read it again and decide anew.",
        field="etag",
    )


def review_not_found() -> Refusal:
    """Refuses a review that this merchant doesn't have."""
    return Refusal(
        Kind.NOT_FOUND,
        "REVIEW_NOT_FOUND",
        "The merchant has no such review.",
        remedy="List the reviews to see which there are.",
        field="review_id",
    )


def review_ended(state: str) -> Refusal:
    """Refuses to decide what is decided."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "REVIEW_ENDED",
        "The review is not open any more.",
        remedy="Read the review to see how it ended.",
        field="review_id",
        facts={"state": f"STATE_{state}"},
    )
