"""Translates between the contract's messages and the domain's words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.fraud.v1 import fraud_pb2
from smartpay.payments.v1 import payment_pb2, payments_pb2
from smartpay.rewards.v1 import rewards_pb2
from smartpay.router.v1 import router_pb2
from smartpay.type.v1 import instrument_pb2, money_pb2
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import (
    ActionKind,
    Attempt,
    CaptureMethod,
    Dispute,
    Initiator,
    Money,
    Order,
    Payment,
    Refund,
    RefundReason,
)

PROCESSORS = {
    "stripe": instrument_pb2.PROCESSOR_STRIPE,
    "amazon_pay": instrument_pb2.PROCESSOR_AMAZON_PAY,
    "solana": instrument_pb2.PROCESSOR_SOLANA,
}


def money_of(message: money_pb2.Money) -> Money:
    """Reads an amount."""
    return Money(message.minor_units, message.currency_code)


def order_of(request: payments_pb2.CreatePaymentRequest) -> Order:
    """Reads what the merchant asked for; the contract's rules hold already."""
    initiator = (
        Initiator.MERCHANT
        if request.initiator == payment_pb2.INITIATOR_MERCHANT
        else Initiator.CUSTOMER
    )
    return Order(
        amount=money_of(request.amount),
        tokens={t.processor_account_id: t.token for t in request.instrument.tokens},
        fingerprint=request.instrument.fingerprint,
        capture_method=(
            CaptureMethod.MANUAL
            if request.capture_method == payment_pb2.CAPTURE_METHOD_MANUAL
            else CaptureMethod.AUTOMATIC
        ),
        merchant_order_id=request.merchant_order_id,
        customer_id=request.customer_id,
        device_id=request.device_id,
        ip_address=request.ip_address,
        initiator=initiator,
        off_session=request.off_session,
        statement_descriptor=request.statement_descriptor,
        description=request.description,
        decision_id=request.decision_id,
        reward_wallet=request.reward_wallet,
        metadata=dict(request.metadata),
        terminal_id=request.terminal_id,
        country=request.country,
    )


def refund_reason_of(reason: payment_pb2.Refund.Reason.ValueType) -> RefundReason:
    """Reads why money is given back; the customer asked when nothing is said."""
    if reason == payment_pb2.Refund.REASON_UNSPECIFIED:
        return RefundReason.REQUESTED_BY_CUSTOMER
    return RefundReason(payment_pb2.Refund.Reason.Name(reason).removeprefix("REASON_"))


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Spells a moment; None stays absent."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


_ACTIONS: dict[ActionKind, Callable[[payment_pb2.NextAction], Any]] = {
    ActionKind.REDIRECT: lambda action: action.redirect_to_url,
    ActionKind.SOLANA_PAY: lambda action: action.solana_pay,
    ActionKind.AMAZON_CHECKOUT: lambda action: action.amazon_checkout,
}


def payment_message(payment: Payment) -> payment_pb2.Payment:
    """Spells a payment without ledger and reward."""
    order = payment.order
    currency = order.amount.currency_code

    def money(minor_units: int) -> money_pb2.Money:
        return money_pb2.Money(minor_units=minor_units, currency_code=currency)

    message = payment_pb2.Payment(
        payment_id=payment.payment_id,
        merchant_id=payment.merchant_id,
        livemode=payment.livemode,
        merchant_order_id=order.merchant_order_id,
        status=payment_pb2.Payment.Status.Value(f"STATUS_{payment.status.value}"),
        status_reason=payment.status_reason,
        amount=money(order.amount.minor_units),
        authorized_amount=money(payment.authorized_minor),
        captured_amount=money(payment.captured_minor),
        refunded_amount=money(payment.refunded_minor),
        disputed_amount=money(payment.disputed_minor),
        capture_method=payment_pb2.CaptureMethod.Value(
            f"CAPTURE_METHOD_{order.capture_method.value}"
        ),
        initiator=payment_pb2.Initiator.Value(f"INITIATOR_{order.initiator.value}"),
        off_session=order.off_session,
        instrument=instrument_pb2.Instrument(
            tokens=[
                instrument_pb2.ProcessorToken(processor_account_id=a, token=t)
                for a, t in order.tokens.items()
            ],
            fingerprint=order.fingerprint,
        ),
        instrument_id=order.instrument_id,
        customer_id=order.customer_id,
        statement_descriptor=order.statement_descriptor,
        description=order.description,
        metadata=order.metadata,
        attempts=[_attempt_message(a) for a in payment.attempts],
        refunds=[refund_message(payment, r) for r in payment.refunds],
        disputes=[dispute_message(payment, d) for d in payment.disputes],
        overpaid_amount=money(payment.overpaid_minor),
        reward_wallet=order.reward_wallet,
        create_time=timestamp(payment.create_time),
        update_time=timestamp(payment.update_time),
        etag=f'"{payment.version}"',
    )
    action = payment.next_action
    if action is not None and action.kind is ActionKind.CHOOSE_RAIL:
        message.next_action.choose_rail.processor_account_ids.extend(action.processor_account_ids)
    elif action is not None:
        _ACTIONS[action.kind](message.next_action).url = action.url
    if action is not None and payment.action_expire_time is not None:
        message.next_action.expire_time.FromDatetime(payment.action_expire_time)
    if payment.fraud is not None:
        message.fraud.CopyFrom(fraud_pb2.Assessment.FromString(payment.fraud.document))
    if payment.route is not None:
        message.route.CopyFrom(router_pb2.Decision.FromString(payment.route.document))
    return message


def _attempt_message(attempt: Attempt) -> payment_pb2.Attempt:
    return payment_pb2.Attempt(
        attempt_index=attempt.attempt_index,
        processor_account_id=attempt.processor_account_id,
        processor=PROCESSORS[attempt.processor],
        status=payment_pb2.Attempt.Status.Value(f"STATUS_{attempt.status.value}"),
        processor_payment_id=attempt.processor_payment_id,
        decline_code=attempt.decline_code,
        soft_decline=attempt.soft_decline,
        start_time=timestamp(attempt.start_time),
        end_time=timestamp(attempt.end_time),
    )


def refund_message(payment: Payment, refund: Refund) -> payment_pb2.Refund:
    """Spells a refund."""
    return payment_pb2.Refund(
        refund_id=refund.refund_id,
        payment_id=payment.payment_id,
        amount=money_pb2.Money(
            minor_units=refund.amount.minor_units, currency_code=refund.amount.currency_code
        ),
        reason=payment_pb2.Refund.Reason.Value(f"REASON_{refund.reason.value}"),
        status=payment_pb2.Refund.Status.Value(f"STATUS_{refund.status.value}"),
        failure_code=refund.failure_code,
        processor_refund_id=refund.processor_refund_id,
        create_time=timestamp(refund.create_time),
        update_time=timestamp(refund.update_time),
    )


def dispute_message(payment: Payment, dispute: Dispute) -> payment_pb2.Dispute:
    """Spells a dispute."""
    currency = payment.order.amount.currency_code
    return payment_pb2.Dispute(
        dispute_id=dispute.dispute_id,
        payment_id=payment.payment_id,
        amount=money_pb2.Money(minor_units=dispute.amount_minor, currency_code=currency),
        reason=dispute.reason,
        status=payment_pb2.Dispute.Status.Value(f"STATUS_{dispute.status.value}"),
        evidence_due_time=timestamp(dispute.evidence_due_time),
        processor_dispute_id=dispute.processor_dispute_id,
        fee=money_pb2.Money(minor_units=dispute.fee_minor, currency_code=currency),
        create_time=timestamp(dispute.create_time),
        update_time=timestamp(dispute.update_time),
    )


def ledger_message(entry: LedgerEntry) -> payment_pb2.LedgerEntry:
    """Spells one leg of the ledger."""
    return payment_pb2.LedgerEntry(
        transaction_id=entry.transaction_id,
        account=entry.account,
        amount=money_pb2.Money(minor_units=entry.minor_units, currency_code=entry.currency_code),
        post_time=timestamp(entry.post_time),
    )


_REWARD_STATES = {
    rewards_pb2.Reward.STATUS_UNSPECIFIED: payment_pb2.RewardSummary.STATE_NONE,
    rewards_pb2.Reward.STATUS_NEW: payment_pb2.RewardSummary.STATE_PENDING,
    rewards_pb2.Reward.STATUS_SENT: payment_pb2.RewardSummary.STATE_PENDING,
    rewards_pb2.Reward.STATUS_FINAL: payment_pb2.RewardSummary.STATE_MINTED,
    rewards_pb2.Reward.STATUS_PARKED: payment_pb2.RewardSummary.STATE_PARKED,
    rewards_pb2.Reward.STATUS_CANCELED: payment_pb2.RewardSummary.STATE_NONE,
}


def reward_message(reward: rewards_pb2.Reward | None) -> payment_pb2.RewardSummary:
    """Sums up a reward; None says that rewards could not be asked."""
    if reward is None:
        return payment_pb2.RewardSummary(state=payment_pb2.RewardSummary.STATE_UNAVAILABLE)
    return payment_pb2.RewardSummary(
        state=_REWARD_STATES[reward.status],
        token_base_units=reward.token_base_units,
        wallet=reward.wallet,
        signature=reward.signature,
    )


def event_message(payment: Payment) -> payment_pb2.PaymentEvent:
    """Spells the event that made this version, with the attributes of CloudEvents 1.0."""
    return payment_pb2.PaymentEvent(
        id=f"evt_{payment.payment_id.removeprefix('pay_')}_{payment.version}",
        source=f"smartpay/payments/{payment.cell}",
        specversion="1.0",
        type=payment.event_type,
        subject=payment.payment_id,
        time=timestamp(payment.update_time),
        sequence=payment.version,
        merchant_id=payment.merchant_id,
        livemode=payment.livemode,
        payment=payment_message(payment),
        reward_mark=payment_pb2.RewardMark.Value(f"REWARD_MARK_{payment.reward_mark.value}"),
        device_id=payment.order.device_id,
        ip_address=payment.order.ip_address,
        reward_vesting_seconds=payment.reward_vesting_seconds,
    )
