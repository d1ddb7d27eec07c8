"""Which payments a merchant asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from smartpay_payments.domain.payment import Status


@dataclass(frozen=True, slots=True)
class PaymentFilter:
    """Which payments are listed; what is empty admits all, and all that is given must hold."""

    statuses: tuple[Status, ...] = ()
    """One of these."""
    processor: str = ""
    """That of the last attempt, for instance "stripe"."""
    merchant_order_id: str = ""
    customer_id: str = ""
    create_time_from: datetime | None = None
    create_time_before: datetime | None = None
    currency_code: str = ""
    minor_units_min: int | None = None
    minor_units_max: int | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    """Pairs that the payment's metadata holds."""
