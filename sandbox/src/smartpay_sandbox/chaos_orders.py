"""What is bought during a chaos run: for each rail every way an order can go.

Each story is told from the outside, as a merchant's server and its payer live it. A story ends
early when its caller gives up or the payment went another way; the judge looks at what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from smartpay.payments.v1 import payment_pb2
from smartpay_sandbox.chaos_customers import Customer, P, RefusedError
from smartpay_sandbox.chaos_street import AMAZON_MERCHANT, LATE_SECONDS

VISA, MASTERCARD = "pm_card_visa", "pm_card_mastercard"
SOFT, FUNDS = "pm_card_chargeDeclinedProcessingError", "pm_card_chargeDeclinedInsufficientFunds"
STOLEN, CHALLENGE = "pm_card_chargeDeclinedStolenCard", "pm_card_authenticationRequired"
CHECKOUT = ("wallet", "checkout")
TRANSFERS = (("chain", "solana_pay"), ("side_chain", "solana_pay"))
MANUAL = payment_pb2.CAPTURE_METHOD_MANUAL
USDC = 10**6
CROWD, PARTS = 64, 40


@dataclass(frozen=True)
class Order:
    """One way an order can go.

    Attributes:
        rail: where it begins.
        story: lives it.
        weight: how often it comes, relative to the others of its rail.
    """

    rail: str
    story: Callable[[Customer], Awaitable[None]]
    weight: int = 1

    @property
    def name(self) -> str:
        """The story's name."""
        return self.story.__name__


def _minor(customer: Customer) -> int:
    return customer.chance.randrange(1000, 20000)


def _cards(first: str, second: str = VISA) -> list[tuple[str, str]]:
    return [("first", first), ("second", second)]


# ---- Stripe ----------------------------------------------------------------------------------


async def card_charged(customer: Customer) -> None:
    """Charges a card at once."""
    await customer.pay(_minor(customer), _cards(VISA))


async def card_cascaded(customer: Customer) -> None:
    """Charges a card that the first account's bank declines softly."""
    await customer.pay(_minor(customer), _cards(customer.chance.choice((SOFT, FUNDS)), MASTERCARD))


async def card_declined(customer: Customer) -> None:
    """Charges a card that every bank declines."""
    await customer.pay(_minor(customer), _cards(customer.chance.choice((SOFT, STOLEN)), SOFT))


async def card_captured(customer: Customer) -> None:
    """Authorizes, captures all or a part, and may give some back."""
    minor = _minor(customer)
    payment = await customer.pay(minor, _cards(VISA), capture_method=MANUAL)
    payment = await customer.until(payment, P.STATUS_REQUIRES_CAPTURE)
    if payment.status != P.STATUS_REQUIRES_CAPTURE:
        return
    part = customer.chance.choice((minor, minor // 2))
    payment = await customer.until(await customer.capture(payment, part))
    if payment.status == P.STATUS_SUCCEEDED and customer.chance.random() < 0.5:
        await customer.refund(payment, part // 2)


async def card_released(customer: Customer) -> None:
    """Authorizes and cancels."""
    payment = await customer.pay(_minor(customer), _cards(VISA), capture_method=MANUAL)
    payment = await customer.until(payment, P.STATUS_REQUIRES_CAPTURE)
    if payment.status == P.STATUS_REQUIRES_CAPTURE:
        await customer.cancel(payment)


async def card_refunded(customer: Customer) -> None:
    """Charges and gives it back in one, two or three parts at once."""
    payment = await customer.until(await customer.pay(_minor(customer), _cards(VISA)))
    if payment.status == P.STATUS_SUCCEEDED:
        await _give_back(customer, payment)


async def _give_back(customer: Customer, payment: payment_pb2.Payment) -> None:
    parts = customer.chance.choice((1, 2, 3))
    each = payment.captured_amount.minor_units // parts
    results = await asyncio.gather(
        *(customer.refund(payment, each, number) for number in range(parts)),
        return_exceptions=True,
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def card_confirmed_later(customer: Customer) -> None:
    """Creates a payment and confirms it in a second call, or never does."""
    payment = await customer.pay(_minor(customer), _cards(VISA), confirm_later=True)
    if customer.chance.random() < 0.8:
        await customer.confirm(payment)


async def challenge(customer: Customer) -> None:
    """Charges a card whose bank asks the payer, who passes, fails, or never answers."""
    payment = await customer.pay(_minor(customer), _cards(CHALLENGE))
    payment = await customer.until(payment, P.STATUS_REQUIRES_ACTION)
    outcome = customer.chance.choice(("success", "success", "fail", ""))
    if payment.status != P.STATUS_REQUIRES_ACTION or not outcome:
        return
    url = payment.next_action.redirect_to_url.url
    await customer.act(f"{url}/authenticate?outcome={outcome}")
    if customer.chance.random() < 0.7:  # else the shop never hears of it and recovery looks
        await customer.confirm(payment)


async def other_rail_taken(customer: Customer) -> None:
    """Takes the offer of another rail after a decline, or leaves it."""
    usd = [("first", STOLEN), CHECKOUT]
    payment = await customer.pay(_minor(customer), usd)
    payment = await customer.until(payment, P.STATUS_REQUIRES_CONFIRMATION)
    if payment.status != P.STATUS_REQUIRES_CONFIRMATION or customer.chance.random() < 0.2:
        return
    payment = await customer.confirm(payment, "wallet")
    await _check_out(customer, payment)


async def stampede(customer: Customer) -> None:
    """Pays from 64 places under one key, then asks 64 times for a part back: 40 parts there are."""
    payments = await asyncio.gather(
        *(customer.pay(PARTS * 100, _cards(VISA)) for _ in range(CROWD))
    )
    payment = await customer.until(payments[0])
    if payment.status != P.STATUS_SUCCEEDED:
        return
    refunds = await asyncio.gather(
        *(customer.refund(payment, 100, number) for number in range(CROWD)),
        return_exceptions=True,
    )
    for refund in refunds:
        if isinstance(refund, BaseException) and not isinstance(refund, RefusedError):
            raise refund


# ---- Amazon Pay ------------------------------------------------------------------------------


async def _check_out(customer: Customer, payment: payment_pb2.Payment) -> payment_pb2.Payment:
    """Acts on Amazon's page: mostly agrees, and mostly comes back to the shop."""
    payment = await customer.until(payment, P.STATUS_REQUIRES_ACTION)
    action = customer.chance.choice((*("agree?card=1111",) * 5, "agree?card=3434", "cancel", ""))
    if payment.status != P.STATUS_REQUIRES_ACTION or not action:
        return payment
    await customer.act(f"{payment.next_action.amazon_checkout.url}/{action}")
    if customer.chance.random() < 0.7:
        payment = await customer.confirm(payment)
    return await customer.until(payment, P.STATUS_REQUIRES_CAPTURE)


async def wallet_charged(customer: Customer) -> None:
    """Sends the payer to Amazon's checkout."""
    await _check_out(customer, await customer.pay(_minor(customer), [CHECKOUT]))


async def wallet_captured(customer: Customer) -> None:
    """Authorizes at Amazon, then captures all or a part, or cancels."""
    minor = _minor(customer)
    payment = await customer.pay(minor, [CHECKOUT], capture_method=MANUAL)
    payment = await _check_out(customer, payment)
    if payment.status != P.STATUS_REQUIRES_CAPTURE:
        return
    if customer.chance.random() < 0.3:
        await customer.cancel(payment)
    else:
        await customer.capture(payment, customer.chance.choice((minor, minor // 2)))


async def wallet_refunded(customer: Customer) -> None:
    """Charges at Amazon and gives it back in parts."""
    payment = await _check_out(customer, await customer.pay(_minor(customer), [CHECKOUT]))
    if payment.status == P.STATUS_SUCCEEDED:
        await _give_back(customer, payment)


async def wallet_saved(customer: Customer) -> None:
    """Charges a payer who agreed before and is not there."""
    async with customer.street.control.post(
        "/control/amazon_pay/permissions", json={"merchant_id": AMAZON_MERCHANT}
    ) as answer:
        granted = await answer.json()
    await customer.pay(
        _minor(customer),
        [("wallet", granted["chargePermissionId"])],
        initiator=payment_pb2.INITIATOR_MERCHANT,
        off_session=True,
    )


async def checkout_given_up(customer: Customer) -> None:
    """Sends the payer to Amazon, who agrees while the shop cancels."""
    payment = await customer.pay(_minor(customer), [CHECKOUT])
    payment = await customer.until(payment, P.STATUS_REQUIRES_ACTION)
    if payment.status != P.STATUS_REQUIRES_ACTION:
        return
    url = payment.next_action.amazon_checkout.url
    await asyncio.gather(
        customer.cancel(payment), customer.act(f"{url}/agree?card=1111"), return_exceptions=True
    )


# ---- Solana ----------------------------------------------------------------------------------


async def _asked_to_send(customer: Customer) -> tuple[payment_pb2.Payment, str]:
    """Creates a payment in USDC; answers it and the address to pay, "" when it went otherwise."""
    minor = customer.chance.randrange(2, 60) * USDC + customer.chance.randrange(USDC)
    payment = await customer.pay(minor, TRANSFERS, currency="USDC")
    payment = await customer.until(payment, P.STATUS_REQUIRES_ACTION)
    if payment.status != P.STATUS_REQUIRES_ACTION:
        return payment, ""
    return payment, payment.next_action.solana_pay.url


async def _seen(customer: Customer, payment: payment_pb2.Payment) -> payment_pb2.Payment:
    """Waits for the shop's answer, unless the shop never asks."""
    return await customer.until(payment) if customer.chance.random() < 0.7 else payment


async def coins_exact(customer: Customer) -> None:
    """Sends what is asked for; some of it may be given back."""
    payment, url = await _asked_to_send(customer)
    if not url:
        return
    await customer.send(url)
    payment = await _seen(customer, payment)
    if payment.status == P.STATUS_SUCCEEDED and customer.chance.random() < 0.4:
        await customer.refund(payment, payment.captured_amount.minor_units // 2)


async def coins_topped_up(customer: Customer) -> None:
    """Sends too little, then what is missing; or leaves it at that."""
    payment, url = await _asked_to_send(customer)
    if not url:
        return
    await customer.send(url, amount="1")
    while "solana_pay" in (payment.next_action.WhichOneof("action") or ""):
        if payment.next_action.solana_pay.url != url:
            break
        payment = await customer.confirm(payment)
        await asyncio.sleep(0.3)
    url = payment.next_action.solana_pay.url
    if payment.status == P.STATUS_REQUIRES_ACTION and customer.chance.random() < 0.8:
        await customer.send(url)
        await _seen(customer, payment)


async def coins_overpaid(customer: Customer) -> None:
    """Sends more than is asked for."""
    payment, url = await _asked_to_send(customer)
    if url:
        await customer.send(url, amount=f"{60 + customer.chance.randrange(1, 9)}.5")
        await _seen(customer, payment)


async def coins_sent_twice(customer: Customer) -> None:
    """Pays the same address twice, from one wallet or two."""
    payment, url = await _asked_to_send(customer)
    if url:
        await customer.send(url)
        if customer.chance.random() < 0.5:
            await asyncio.sleep(customer.chance.uniform(0, 2))
        await customer.send(url)
        await _seen(customer, payment)


async def coins_late(customer: Customer) -> None:
    """Pays after the shop, or time, has given the payment up."""
    payment, url = await _asked_to_send(customer)
    if not url:
        return
    if customer.chance.random() < 0.6:
        payment = await customer.cancel(payment)
    payment = await customer.until(payment, P.STATUS_CANCELED)
    # Later than that nobody watches the address any more; in production that is a week.
    if time.time() - payment.update_time.ToSeconds() < LATE_SECONDS / 2:
        await customer.send(url)


async def coins_superseded(customer: Customer) -> None:
    """Turns to another account, and pays the first address nevertheless; perhaps both."""
    payment, url = await _asked_to_send(customer)
    if not url:
        return
    first, second = await asyncio.gather(
        customer.confirm(payment, "side_chain"), customer.send(url), return_exceptions=True
    )
    for result in (first, second):
        if isinstance(result, BaseException):
            raise result
    assert isinstance(first, payment_pb2.Payment)
    if customer.chance.random() < 0.5 and first.next_action.HasField("solana_pay"):
        await customer.send(first.next_action.solana_pay.url)
        await _seen(customer, first)


STAMPEDE = Order("stripe", stampede)
"""Begins each round; too much for more."""
ORDERS = (
    Order("stripe", card_charged, 4),
    Order("stripe", card_cascaded, 2),
    Order("stripe", card_declined),
    Order("stripe", card_captured, 3),
    Order("stripe", card_released),
    Order("stripe", card_refunded, 3),
    Order("stripe", card_confirmed_later),
    Order("stripe", challenge, 2),
    Order("stripe", other_rail_taken, 2),
    Order("amazon_pay", wallet_charged, 3),
    Order("amazon_pay", wallet_captured, 3),
    Order("amazon_pay", wallet_refunded, 2),
    Order("amazon_pay", wallet_saved, 2),
    Order("amazon_pay", checkout_given_up),
    Order("solana", coins_exact, 3),
    Order("solana", coins_topped_up, 2),
    Order("solana", coins_overpaid, 2),
    Order("solana", coins_sent_twice, 2),
    Order("solana", coins_late, 2),
    Order("solana", coins_superseded, 2),
)
