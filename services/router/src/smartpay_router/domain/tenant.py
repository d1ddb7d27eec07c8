"""Whose decision it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tenant:
    """The merchant with test or live credentials; nothing is shared between two of them."""

    merchant_id: str
    livemode: bool

    @property
    def key(self) -> str:
        """Names the tenant in budgets and draws."""
        return f"{self.merchant_id}/{'live' if self.livemode else 'test'}"
