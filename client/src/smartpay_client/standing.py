"""What a result says about itself beside its fields; the generated results build on these."""

from __future__ import annotations

_UNDECIDED = frozenset({"PROCESSING", "UNKNOWN"})


class PaymentStanding:
    """Where a payment stands, in questions that merchants ask."""

    status: str

    @property
    def succeeded(self) -> bool:
        """The money was captured."""
        return self.status == "SUCCEEDED"

    @property
    def declined(self) -> bool:
        """Every account that could be tried said no; status_reason says why."""
        return self.status == "FAILED"

    @property
    def blocked(self) -> bool:
        """Fraud refused it and nothing was charged."""
        return self.status == "BLOCKED"

    @property
    def undecided(self) -> bool:
        """A processor is at work, or what it did is being found out: ask again, never assume."""
        return self.status in _UNDECIDED


class RefundStanding:
    """Where a refund stands."""

    status: str

    @property
    def succeeded(self) -> bool:
        """The money was given back."""
        return self.status == "SUCCEEDED"


class WholeUnits:
    """An amount that no float can touch."""

    minor_units: int

    def __post_init__(self) -> None:
        """Refuses anything but whole minor units; raises TypeError."""
        if type(self.minor_units) is not int:
            raise TypeError("minor_units must be an int: 1999 is 19.99 USD or 1999 JPY")
