"""What is to be charged: the terms that a decision is made for and bound to, and what helps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

PAYER_LETTERS = 24
"""Of a hash in hex: 96 bits, which no two payers of a merchant ever share by chance."""


@dataclass(frozen=True)
class Charge:
    """An amount and the instrument that is to pay it.

    Attributes:
        amount_minor: whole minor units of the currency, at least 1.
        currency: ISO 4217 code, or USDC or SOL.
        tokens: the instrument's token per processor account id.
        fingerprint: what stays the same when the payer uses the instrument again; may be empty.
        risk: probability of fraud, 0 to 1; 0 when unknown. Advice, no term.
        country: the payer's, ISO 3166-1 alpha-2; empty when unknown. Advice, no term.
        off_session: True when the payer is not there to act. Advice, no term.
    """

    amount_minor: int
    currency: str
    tokens: Mapping[str, str]
    fingerprint: str = ""
    risk: float = 0.0
    country: str = ""
    off_session: bool = False

    @cached_property
    def _hash(self) -> str:
        pairs = json.dumps(sorted(self.tokens.items()), separators=(",", ":"))
        return hashlib.sha256(pairs.encode()).hexdigest()

    def instrument_hash(self) -> str:
        """Hashes the tokens, so that a decision remembers the instrument without holding it.

        Answers SHA-256 in hex over the pairs in the order of their accounts.
        """
        return self._hash

    def payer(self) -> str:
        """Names who pays, as far as the instrument tells: the same name for its every use.

        A hash as well: what a card's issuer can be asked by is not ours to keep.
        """
        if not self.fingerprint:
            return self._hash[:PAYER_LETTERS]
        return hashlib.sha256(self.fingerprint.encode()).hexdigest()[:PAYER_LETTERS]
