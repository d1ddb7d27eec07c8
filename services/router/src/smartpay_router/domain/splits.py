"""Volume splits and the lots of payers: chance that is a hash, so that anyone can draw it again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from smartpay_router.domain.rules import ALWAYS, Condition

PERCENT = 100


@dataclass(frozen=True, slots=True)
class Share:
    """One account's share of the volume, in percent."""

    processor_account_id: str
    percent: int


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of the volume that matches a condition.

    Attributes:
        rule_id: the merchant's name for it.
        shares: 100 percent together.
        condition: which volume.
        disabled: True while it is not asked.
    """

    rule_id: str
    shares: tuple[Share, ...]
    condition: Condition = ALWAYS
    disabled: bool = False

    def chances(self, able: Collection[str]) -> dict[str, float]:
        """Answers how probable each account is; what can't take part leaves its share to the rest.

        Args:
            able: accounts that can make the charge and whose processors work.

        Answers an empty mapping when none of the split's accounts is able.
        """
        left = [share for share in self.shares if share.processor_account_id in able]
        total = sum(share.percent for share in left)
        return {share.processor_account_id: share.percent / total for share in left}


def drawn(chances: dict[str, float], *parts: str) -> str:
    """Draws an account by its chance, always the same one for the same parts."""
    ticket = lot(*parts)
    for account, chance in chances.items():
        ticket -= chance
        if ticket < 0:
            return account
    return next(reversed(chances))  # chances add up to 1 less a rounding


def lot(*parts: str) -> float:
    """Draws a number from 0 to below 1 out of some texts, evenly."""
    text = "\n".join(parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
