"""The one call all paths carry: fraud.Score, with an answer that never changes.

A POST with a body meets every step of the edge: key table, transcoding, unwrapping.
"""

from __future__ import annotations

import struct

from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.fraud.v1 import fraud_pb2
from smartpay.type.v1.money_pb2 import Money

METHOD = "/smartpay.fraud.v1.FraudService/Score"
ROUTE = "/fraud"
SCOPE = "smartpay/fraud.score"

REQUEST = fraud_pb2.ScoreRequest(
    transaction_id="order-2041",
    amount=Money(minor_units=4_999, currency_code="USD"),
    customer_id="customer-7f3a",
    instrument_fingerprint="fingerprint-9c41d2",
    device_id="device-58b0",
    ip_address="203.0.113.7",
)
BODY = {
    "transactionId": "order-2041",
    "amount": {"minorUnits": "4999", "currencyCode": "USD"},
    "customerId": "customer-7f3a",
    "instrumentFingerprint": "fingerprint-9c41d2",
    "deviceId": "device-58b0",
    "ipAddress": "203.0.113.7",
}
"""REQUEST as REST callers write it."""

ANSWER = fraud_pb2.ScoreResponse(
    assessment=fraud_pb2.Assessment(
        transaction_id="order-2041",
        verdict=fraud_pb2.Assessment.VERDICT_ALLOW,
        score=0.0123,
        reasons=[
            fraud_pb2.Reason(
                code="VELOCITY_DEVICE",
                message="The device made 3 payments within an hour.",
                contribution=0.41,
            )
        ],
        model_version="2026.1",
        create_time=Timestamp(seconds=1_767_268_800),
    )
)


def framed(message: bytes) -> bytes:
    """Puts gRPC's five bytes before a message, for a client that knows HTTP/2 only.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Length-Prefixed-Message.
    """
    return struct.pack(">BI", 0, len(message)) + message
