"""What is to be charged: the terms that a decision is made for and bound to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Charge:
    """An amount and the instrument that is to pay it.

    Attributes:
        amount_minor: whole minor units of the currency, at least 1.
        currency: ISO 4217 code, or USDC or SOL.
        tokens: the instrument's token per processor account id.
    """

    amount_minor: int
    currency: str
    tokens: Mapping[str, str]

    def instrument_hash(self) -> str:
        """Hashes the tokens, so that a decision remembers the instrument without holding it.

        Answers SHA-256 in hex over the pairs in the order of their accounts.
        """
        pairs = json.dumps(sorted(self.tokens.items()), separators=(",", ":"))
        return hashlib.sha256(pairs.encode()).hexdigest()
