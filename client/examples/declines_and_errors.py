"""A decline is a result to look at; what is wrong with a request is an error that says so."""

from smartpay_client import Client, IdempotencyKeyReused, InvalidRequest, Money, NotFound

ACCOUNT = "pac_d1mmzd9hq73ytxj4ps4c29ac6f"

with Client.from_environment() as client:
    payment = client.payments.create(
        amount=Money(1999, "USD"),
        instrument={ACCOUNT: "pm_card_visa_chargeDeclined"},
        capture_method="AUTOMATIC",
    )
    print(f"declined: {payment.declined} ({payment.status_reason})")

    try:
        client.payments.create(
            amount=Money(1999, "XYZ"),
            instrument={ACCOUNT: "pm_card_visa"},
            capture_method="AUTOMATIC",
        )
    except InvalidRequest as error:
        print(f"{error.field}: {error.detail}")

    key = f"key-of-{payment.payment_id}"
    card = {ACCOUNT: "pm_card_visa"}
    for amount in (Money(100, "USD"), Money(200, "USD")):
        try:
            paid = client.payments.create(
                amount=amount, instrument=card, capture_method="AUTOMATIC", idempotency_key=key
            )
            print(f"{amount.minor_units}: {paid.status}")
        except IdempotencyKeyReused as error:
            print(f"{amount.minor_units}: {error.remedy}")

    try:
        client.payments.get("pay_d1" + "0" * 24)
    except NotFound as error:
        print(f"{error.reason}, request {error.request_id}")
