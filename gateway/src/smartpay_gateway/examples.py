"""One request per rpc that works, for the documentation: fields as JSON spells them.

Account ids and tokens are those of the demo merchant, so that what touches no earlier payment
works as it stands after `make up`. Tests hold every example against the contract's own rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PAYMENT = "pay_d18j4n6q2w9x3v5t7z1c0b4k6m"
_DECISION = "dec_d13t8r5y0h7g2f9e4d6c1b8a3k"
_ENDPOINT = "whe_d15n8q2w4x6v7t9z3c1b0m5k8j"
_DELIVERY = "whd_d19r4t6y8h0g2f5e7d1c3b6a8k"
_DISPUTE = "dis_d17c1e4g7j0m3p6r9t2v5x8z1b"
_REFUND = "ref_d19t2v5x8z1b4d7f0h3k6n9q2s"
_CUSTOMER = "customer-7"
_INSTRUMENT_ID = "ins_d14w7m1q9x2v6t8z5c3b0k4n7j"
_ACCOUNT = "pac_d18h3g6f1e9d2c5b7a4k0m8n6p"
_ERASURE = "era_d12p5r8t1w4y7z0c3e6g9j2m5q"
_LIST = "lst_d18p1s4v7y0b3e6h9k2n5q8t1w"
_REVIEW = "rev_d16f9j2m5q8t1w4z7c0e3h6k9n"
_WEBHOOK_SECRET = "whs_d16s9v2x5z8c1e4g7j0m3p6r9t"
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

_RULE = {
    "ruleId": "LARGE_AND_NEW",
    "verdict": "VERDICT_REVIEW",
    "conditions": [
        {"name": "amount_usd_cents", "operator": "OPERATOR_GREATER_OR_EQUAL", "number": 50000},
        {"name": "customer_new_device", "operator": "OPERATOR_EQUAL", "number": 1},
    ],
    "message": "A large payment from a device this customer never used.",
}

_ROUTING_TERMS = {
    "mode": "MODE_LIVE",
    "holdoutPercent": 5,
    "staticOrder": [_PRIMARY, _BACKUP],
    "rules": [
        {
            "ruleId": "LARGE_AT_THE_FIRST",
            "condition": {"minorUnitsMin": "50000", "currencyCodes": ["USD"]},
            "action": "ACTION_PREFER",
            "processorAccountIds": [_PRIMARY],
        }
    ],
    "splits": [
        {
            "ruleId": "COMMITTED_VOLUME",
            "condition": {"countries": ["DE"]},
            "shares": [
                {"processorAccountId": _PRIMARY, "percent": 80},
                {"processorAccountId": _BACKUP, "percent": 20},
            ],
        }
    ],
    "feeBasisPointsMax": 700,
}

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "smartpay.assistant.v1.AssistantService.Ask": {"message": "How much did I take today?"},
    "smartpay.assistant.v1.AssistantService.Chat": {
        "message": "What is my approval rate by processor account?"
    },
    "smartpay.fraud.v1.FraudAuditService.ListFraudAuditRecords": {
        "pageSize": 20,
        "subjectId": "rules",
    },
    "smartpay.fraud.v1.FraudService.RecordLabel": {
        "transactionId": "order-1001",
        "label": "LABEL_LEGITIMATE",
    },
    "smartpay.fraud.v1.FraudService.Score": _TRANSACTION,
    "smartpay.fraud.v1.FraudService.ScoreBatch": {
        "transactions": [_TRANSACTION, {"transactionId": "order-1002", "amount": _AMOUNT}]
    },
    "smartpay.fraud.v1.ListsService.AddScreeningEntries": {
        "listId": _LIST,
        "entries": [{"value": "203.0.113.0/24", "note": "a hosting provider"}],
    },
    "smartpay.fraud.v1.ListsService.CreateScreeningList": {
        "name": "hosting providers",
        "kind": "KIND_NETWORK",
        "verdict": "VERDICT_REVIEW",
        "description": "Payers seldom sit in data centres.",
    },
    "smartpay.fraud.v1.ListsService.DeleteScreeningList": {"listId": _LIST},
    "smartpay.fraud.v1.ListsService.GetScreeningList": {"listId": _LIST},
    "smartpay.fraud.v1.ListsService.ListScreeningEntries": {"listId": _LIST, "pageSize": 20},
    "smartpay.fraud.v1.ListsService.ListScreeningLists": {"pageSize": 20},
    "smartpay.fraud.v1.ListsService.RemoveScreeningEntries": {
        "listId": _LIST,
        "values": ["203.0.113.0/24"],
    },
    "smartpay.fraud.v1.ModelService.GetModelStatus": {},
    "smartpay.fraud.v1.PoliciesService.GetFraudPolicy": {},
    "smartpay.fraud.v1.PoliciesService.UpdateFraudPolicy": {
        "etag": '"0"',
        "terms": {
            "costs": {
                "chargebackFeeCents": "1500",
                "goodwillCents": "3000",
                "marginPercent": 20,
                "reviewCents": "2000",
                "reviewMissPercent": 30,
            }
        },
    },
    "smartpay.fraud.v1.ReviewsService.AssignReview": {"reviewId": _REVIEW, "etag": '"1"'},
    "smartpay.fraud.v1.ReviewsService.GetReview": {"reviewId": _REVIEW},
    "smartpay.fraud.v1.ReviewsService.ListReviews": {"pageSize": 20, "state": "STATE_OPEN"},
    "smartpay.fraud.v1.ReviewsService.ResolveReview": {
        "reviewId": _REVIEW,
        "etag": '"2"',
        "resolution": "RESOLUTION_APPROVE",
        "note": "The payer answered the phone.",
    },
    "smartpay.fraud.v1.ReviewsService.UnassignReview": {"reviewId": _REVIEW, "etag": '"2"'},
    "smartpay.fraud.v1.RulesService.BacktestRules": {
        "rules": [_RULE],
        "createTimeFrom": "2026-01-01T00:00:00Z",
    },
    "smartpay.fraud.v1.RulesService.GetRuleSet": {},
    "smartpay.fraud.v1.RulesService.ListRuleFields": {"pageSize": 200},
    "smartpay.fraud.v1.RulesService.ListRuleSets": {"pageSize": 20},
    "smartpay.fraud.v1.RulesService.UpdateRuleSet": {
        "baseVersion": "1",
        "rules": [_RULE],
        "note": "Large first payments from new devices.",
    },
    "smartpay.payments.v1.AuditService.ListAuditRecords": {
        "pageSize": 20,
        "action": "MerchantsService.UpdateMerchant",
    },
    "smartpay.payments.v1.CustomersService.CreateCustomer": {
        "customerId": _CUSTOMER,
        "email": "ada@example.com",
        "name": "Ada Lovelace",
        "metadata": {"tier": "gold"},
    },
    "smartpay.payments.v1.CustomersService.CreateErasure": {"customerId": _CUSTOMER},
    "smartpay.payments.v1.CustomersService.GetCustomer": {"customerId": _CUSTOMER},
    "smartpay.payments.v1.CustomersService.GetErasure": {"erasureId": _ERASURE},
    "smartpay.payments.v1.CustomersService.ListCustomers": {"pageSize": 20},
    "smartpay.payments.v1.CustomersService.UpdateCustomer": {
        "customerId": _CUSTOMER,
        "etag": '"1"',
        "email": "ada@example.org",
        "metadata": {"tier": ""},
    },
    "smartpay.payments.v1.DisputesService.AcceptDispute": {"disputeId": _DISPUTE},
    "smartpay.payments.v1.DisputesService.GetDispute": {"disputeId": _DISPUTE},
    "smartpay.payments.v1.DisputesService.ListDisputes": {"pageSize": 20},
    "smartpay.payments.v1.DisputesService.SubmitDisputeEvidence": {
        "disputeId": _DISPUTE,
        "shippingTrackingNumber": "1Z999",
        "uncategorizedText": "Signed for by the payer.",
    },
    "smartpay.payments.v1.ExportsService.ExportLedgerEntries": {
        "format": "EXPORT_FORMAT_CSV",
        "postTimeFrom": "2026-01-01T00:00:00Z",
    },
    "smartpay.payments.v1.ExportsService.ExportPayments": {
        "format": "EXPORT_FORMAT_JSONL",
        "status": ["STATUS_SUCCEEDED"],
    },
    "smartpay.payments.v1.InstrumentsService.ConfirmInstrument": {"instrumentId": _INSTRUMENT_ID},
    "smartpay.payments.v1.InstrumentsService.CreateInstrument": {
        "customerId": _CUSTOMER,
        "instrument": _INSTRUMENT,
        "offSession": True,
    },
    "smartpay.payments.v1.InstrumentsService.DetachInstrument": {"instrumentId": _INSTRUMENT_ID},
    "smartpay.payments.v1.InstrumentsService.GetInstrument": {"instrumentId": _INSTRUMENT_ID},
    "smartpay.payments.v1.InstrumentsService.ListInstruments": {"customerId": _CUSTOMER},
    "smartpay.payments.v1.LedgerService.ListBalances": {"currencyCode": "USD"},
    "smartpay.payments.v1.LedgerService.ListLedgerEntries": {
        "pageSize": 20,
        "paymentId": _PAYMENT,
    },
    "smartpay.payments.v1.MerchantsService.GetMerchant": {},
    "smartpay.payments.v1.MerchantsService.UpdateMerchant": {
        "etag": '"0"',
        "settings": {
            "fraudFailPolicy": "FRAUD_FAIL_POLICY_RULES",
            "fraudFailLimits": [{"minorUnits": "5000", "currencyCode": "USD"}],
            "fraudReviewPolicy": "FRAUD_REVIEW_POLICY_HOLD",
            "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
            "accountOrder": [_BACKUP, _PRIMARY],
            "attemptsMax": 3,
            "cascadeSeconds": 20,
            "rewardsEnabled": True,
            "rewardVestingSeconds": "1209600",
            "merchantCategory": "7922",
        },
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
        "terminalId": "box-office",
        "country": "DE",
        "description": "Two tickets",
    },
    "smartpay.payments.v1.PaymentsService.GetPayment": {"paymentId": _PAYMENT},
    "smartpay.payments.v1.PaymentsService.ListPayments": {
        "pageSize": 20,
        "status": ["STATUS_SUCCEEDED"],
        "createTimeFrom": "2026-01-01T00:00:00Z",
    },
    "smartpay.payments.v1.PaymentsService.RefundPayment": {
        "paymentId": _PAYMENT,
        "amount": {"minorUnits": "500", "currencyCode": "USD"},
        "reason": "REASON_REQUESTED_BY_CUSTOMER",
    },
    "smartpay.payments.v1.PaymentsService.ResolvePayment": {
        "paymentId": _PAYMENT,
        "outcome": "OUTCOME_NOT_CHARGED",
        "evidence": "Statement of June, no such charge",
    },
    "smartpay.payments.v1.PaymentsService.ReviewPayment": {
        "paymentId": _PAYMENT,
        "verdict": "VERDICT_APPROVE",
        "note": "Called the payer.",
    },
    "smartpay.payments.v1.PaymentsService.UpdatePayment": {
        "paymentId": _PAYMENT,
        "etag": '"1"',
        "amount": _AMOUNT,
        "description": "Three tickets",
    },
    "smartpay.payments.v1.ProcessorAccountsService.AddWebhookSecret": {
        "processorAccountId": _ACCOUNT,
        "webhookSecret": "whsec_the-secret-that-stripe-shows",
    },
    "smartpay.payments.v1.ProcessorAccountsService.CreateProcessorAccount": {
        "name": "europe",
        "fees": [{"currencyCode": "EUR", "basisPoints": 150, "fixedMinorUnits": "25"}],
        "credentials": {"stripe": {"secretKey": "rk_test_the_key_that_stripe_shows"}},
    },
    "smartpay.payments.v1.ProcessorAccountsService.DisableProcessorAccount": {
        "processorAccountId": _ACCOUNT
    },
    "smartpay.payments.v1.ProcessorAccountsService.GetProcessorAccount": {
        "processorAccountId": _PRIMARY
    },
    "smartpay.payments.v1.ProcessorAccountsService.ListProcessorAccounts": {},
    "smartpay.payments.v1.ProcessorAccountsService.RemoveWebhookSecret": {
        "processorAccountId": _ACCOUNT,
        "webhookSecretId": _WEBHOOK_SECRET,
    },
    "smartpay.payments.v1.ProcessorAccountsService.UpdateProcessorAccount": {
        "processorAccountId": _ACCOUNT,
        "etag": '"1"',
        "name": "europe, domestic",
        "enabled": True,
    },
    "smartpay.payments.v1.RefundsService.GetRefund": {"refundId": _REFUND},
    "smartpay.payments.v1.RefundsService.ListRefunds": {"pageSize": 20},
    "smartpay.payments.v1.RefundsService.ResolveRefund": {
        "refundId": _REFUND,
        "outcome": "OUTCOME_REFUNDED",
        "evidence": "Statement of June, line 12",
    },
    "smartpay.payments.v1.WebhookEndpointsService.CreateWebhookEndpoint": {
        "url": "https://merchant.example/smartpay",
        "eventTypes": ["smartpay.payment.*", "smartpay.refund.succeeded.v1"],
    },
    "smartpay.payments.v1.WebhookEndpointsService.DeleteWebhookEndpoint": {
        "webhookEndpointId": _ENDPOINT
    },
    "smartpay.payments.v1.WebhookEndpointsService.GetWebhookEndpoint": {
        "webhookEndpointId": _ENDPOINT
    },
    "smartpay.payments.v1.WebhookEndpointsService.ListWebhookDeliveries": {
        "webhookEndpointId": _ENDPOINT,
        "status": "STATUS_FAILED",
    },
    "smartpay.payments.v1.WebhookEndpointsService.ListWebhookEndpoints": {"pageSize": 20},
    "smartpay.payments.v1.WebhookEndpointsService.ResendWebhookDelivery": {
        "webhookEndpointId": _ENDPOINT,
        "webhookDeliveryId": _DELIVERY,
    },
    "smartpay.payments.v1.WebhookEndpointsService.RotateWebhookSecret": {
        "webhookEndpointId": _ENDPOINT,
        "overlapSeconds": 86400,
    },
    "smartpay.payments.v1.WebhookEndpointsService.UpdateWebhookEndpoint": {
        "webhookEndpointId": _ENDPOINT,
        "url": "https://merchant.example/smartpay",
        "enabled": True,
    },
    "smartpay.rewards.v1.RewardsService.GetReward": {"paymentId": _PAYMENT},
    "smartpay.rewards.v1.RewardsService.Grant": {"paymentId": _PAYMENT},
    "smartpay.rewards.v1.RewardsService.ListRewards": {"pageSize": 20},
    "smartpay.router.v1.RouterService.Decide": {
        "amount": _AMOUNT,
        "instrument": _INSTRUMENT,
        "country": "DE",
    },
    "smartpay.router.v1.RouterService.GetDecision": {"decisionId": _DECISION},
    "smartpay.router.v1.RouterService.RecordOutcome": {
        "decisionId": _DECISION,
        "attemptIndex": 0,
        "processorAccountId": _PRIMARY,
        "outcome": "OUTCOME_SUCCEEDED",
    },
    "smartpay.router.v1.RoutingAuditService.ListRoutingAuditRecords": {"pageSize": 20},
    "smartpay.router.v1.RoutingEvidenceService.ExplainDecision": {"decisionId": _DECISION},
    "smartpay.router.v1.RoutingEvidenceService.GetRoutingStatus": {},
    "smartpay.router.v1.RoutingPoliciesService.DryRunRoutingPolicy": {
        "terms": _ROUTING_TERMS,
        "decisionsMax": 500,
    },
    "smartpay.router.v1.RoutingPoliciesService.EvaluateRoutingPolicy": {
        "terms": {"mode": "MODE_LIVE"}
    },
    "smartpay.router.v1.RoutingPoliciesService.GetRoutingPolicy": {},
    "smartpay.router.v1.RoutingPoliciesService.ListRoutingPolicies": {"pageSize": 20},
    "smartpay.router.v1.RoutingPoliciesService.UpdateRoutingPolicy": {
        "etag": '"1"',
        "terms": _ROUTING_TERMS,
        "note": "Large payments where they are approved best.",
    },
}
