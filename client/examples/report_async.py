"""Takes payments side by side, reads all of them and their rewards, and chats about them."""

import asyncio
from collections import Counter

from smartpay_client import AsyncClient, CaptureMethod, Money, PaymentStatus, Token

CARD = {"pac_d1mmzd9hq73ytxj4ps4c29ac6f": "pm_card_visa"}


async def main() -> None:
    """Runs the example."""
    async with AsyncClient.from_environment() as client:
        amounts = [Money(minor_units, "USD") for minor_units in (300, 500, 700)]
        payments = await asyncio.gather(
            *(
                client.payments.create(
                    amount=amount,
                    instrument=CARD,
                    capture_method=CaptureMethod.AUTOMATIC,
                    customer_id=f"customer-{amount.minor_units}",
                    wait=True,
                )
                for amount in amounts
            )
        )
        print("taken side by side:", sum(p.captured_amount.minor_units for p in payments))

        taken: Counter[str] = Counter()
        async for payment in client.payments.list(status=PaymentStatus.SUCCEEDED, page_size=2):
            taken[payment.captured_amount.currency_code] += payment.captured_amount.minor_units
        print("taken in all:", dict(taken))

        reward = await client.rewards.grant(payments[0].payment_id)
        print(f"reward {reward.status}: {reward.token_base_units} base units")
        print("rewards listed:", len([each async for each in client.rewards.list()]) > 0)

        async for piece in client.chat.stream("How much did I take?"):
            if isinstance(piece, Token):
                print(piece.text, end="")
        print()
        answer = await client.chat.ask("What is my approval rate?")
        print(answer.answer)


asyncio.run(main())
