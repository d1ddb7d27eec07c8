"""One request per rpc that works, for the documentation: fields as JSON spells them.

Account ids and tokens are those of the demo merchant, so that what touches no earlier payment
works as it stands after `make up`. Tests hold every example against the contract's own rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PAYMENT = "pay_d18j4n6q2w9x3v5t7z1c0b4k6m"
_DECISION = "dec_d13t8r5y0h7g2f9e4d6c1b8a3k"
_PRIMARY = "pac_d1mmzd9hq73ytxj4ps4c29ac6f"
_BACKUP = "pac_d1gv5pzwhahz40rf2sz6cncq3h"
_AMOUNT = {"minorUnits": "1999", "currencyCode": "USD"}
_INSTRUMENT = {
    "tokens": [
        {"processorAccountId": _PRIMARY, "token": "pm_card_visa"},
        {"processorAccountId": _BACKUP, "token": "pm_card_visa"},
    ]
}
_TRANSACTION = {
    "transactionId": "order-1001",
    "amount": _AMOUNT,
    "customerId": "customer-7",
    "deviceId": "device-7",
    "ipAddress": "203.0.113.7",
}

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "smartpay.assistant.v1.AssistantService.Ask": {"message": "How much did I take today?"},
    "smartpay.assistant.v1.AssistantService.Chat": {
        "message": "What is my approval rate by processor account?"
    },
    "smartpay.fraud.v1.FraudService.RecordLabel": {
        "transactionId": "order-1001",
        "label": "LABEL_LEGITIMATE",
    },
    "smartpay.fraud.v1.FraudService.Score": _TRANSACTION,
    "smartpay.fraud.v1.FraudService.ScoreBatch": {
        "transactions": [_TRANSACTION, {"transactionId": "order-1002", "amount": _AMOUNT}]
    },
    "smartpay.payments.v1.PaymentsService.CancelPayment": {"paymentId": _PAYMENT},
    "smartpay.payments.v1.PaymentsService.CapturePayment": {
        "paymentId": _PAYMENT,
        "amount": _AMOUNT,
    },
    "smartpay.payments.v1.PaymentsService.ConfirmPayment": {"paymentId": _PAYMENT},
    "smartpay.payments.v1.PaymentsService.CreatePayment": {
        "amount": _AMOUNT,
        "instrument": _INSTRUMENT,
        "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
        "merchantOrderId": "order-1001",
        "customerId": "customer-7",
        "deviceId": "device-7",
        "ipAddress": "203.0.113.7",
        "description": "Two tickets",
    },
    "smartpay.payments.v1.PaymentsService.GetPayment": {"paymentId": _PAYMENT},
    "smartpay.payments.v1.PaymentsService.ListPayments": {
        "pageSize": 20,
        "status": "STATUS_SUCCEEDED",
    },
    "smartpay.payments.v1.PaymentsService.RefundPayment": {
        "paymentId": _PAYMENT,
        "amount": {"minorUnits": "500", "currencyCode": "USD"},
        "reason": "REASON_REQUESTED_BY_CUSTOMER",
    },
    "smartpay.rewards.v1.RewardsService.GetReward": {"paymentId": _PAYMENT},
    "smartpay.rewards.v1.RewardsService.Grant": {"paymentId": _PAYMENT},
    "smartpay.rewards.v1.RewardsService.ListRewards": {"pageSize": 20},
    "smartpay.router.v1.RouterService.Decide": {"amount": _AMOUNT, "instrument": _INSTRUMENT},
    "smartpay.router.v1.RouterService.GetDecision": {"decisionId": _DECISION},
    "smartpay.router.v1.RouterService.RecordOutcome": {
        "decisionId": _DECISION,
        "attemptIndex": 0,
        "processorAccountId": _PRIMARY,
        "outcome": "OUTCOME_SUCCEEDED",
    },
}
