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
