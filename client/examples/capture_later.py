"""Reserves an amount now and takes less of it when the goods leave; cancels another."""

from smartpay_client import CaptureMethod, Client, Conflict, Money

CARD = {"pac_d1mmzd9hq73ytxj4ps4c29ac6f": "pm_card_visa"}

with Client.from_environment() as client:
    reserved = client.payments.create(
        amount=Money(5000, "EUR"), instrument=CARD, capture_method=CaptureMethod.MANUAL
    )
    print(f"{reserved.status}: {reserved.authorized_amount.minor_units} reserved")
    taken = client.payments.capture(reserved.payment_id, Money(4200, "EUR"))
    print(f"{taken.status}: {taken.captured_amount.minor_units} taken")

    other = client.payments.create(
        amount=Money(900, "EUR"), instrument=CARD, capture_method=CaptureMethod.MANUAL
    )
    print(client.payments.cancel(other.payment_id).status)
    try:
        client.payments.capture(other.payment_id, Money(900, "EUR"))
    except Conflict as refused:
        print(f"{refused.reason}: {refused.remedy}")
