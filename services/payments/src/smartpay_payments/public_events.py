"""Writes an event as merchants get it: CloudEvents 1.0 in JSON, the payment as REST shows it."""

from __future__ import annotations

import json

from google.protobuf import json_format

from smartpay_payments.domain.payment import Payment
from smartpay_payments.messages import event_message

CONTENT_TYPE = "application/cloudevents+json"


def public_event(payment: Payment) -> bytes:
    """Writes the event that made this version of a payment.

    The attributes are https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md with the
    sequence extension beside it; `data` prints as the edge prints an answer: names in camelCase,
    64-bit integers as texts, absent numbers and lists written out. What only services may know of
    the payer (device, address) stays inside.
    """
    event = event_message(payment)
    return json.dumps(
        {
            "specversion": event.specversion,
            "id": event.id,
            "source": event.source,
            "type": event.type,
            "subject": event.subject,
            "time": event.time.ToJsonString(),
            "datacontenttype": "application/json",
            "sequence": str(event.sequence),
            "sequencetype": "Integer",
            "merchantid": event.merchant_id,
            "livemode": event.livemode,
            "data": json_format.MessageToDict(
                event.payment, always_print_fields_with_no_presence=True
            ),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
