"""Writes the `solana:` address that a wallet turns into one transfer.

Grammar: the Solana Pay specification, "Transfer Request"
(github.com/solana-foundation/solana-pay, docs/SPEC.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """What a payer's wallet is asked to send. Addresses are base58."""

    recipient: str
    """The wallet that gets it, never a token account."""
    base_units: int
    decimals: int
    """How many decimals the currency has; SOL has 9, USDC 6."""
    reference: str
    """The key that the transfer must name, by which it is found again."""
    spl_token: str = ""
    """The token's mint; empty asks for SOL itself."""
    label: str = ""
    """Who asks; wallets show it."""
    message: str = ""
    """What for; wallets show it."""
    memo: str = ""
    """Text that the wallet writes on the chain, for all to read."""

    @property
    def url(self) -> str:
        """The address, to be shown as a link or QR code."""
        named = {
            "amount": amount_text(self.base_units, self.decimals),
            "spl-token": self.spl_token,
            "reference": self.reference,
            "label": self.label,
            "message": self.message,
            "memo": self.memo,
        }
        query = "&".join(f"{name}={quote(text, safe='')}" for name, text in named.items() if text)
        return f"solana:{self.recipient}?{query}"


def amount_text(base_units: int, decimals: int) -> str:
    """Spells an amount in whole coins: plain digits, never an exponent, no idle zeros."""
    if base_units < 0:
        raise ValueError("nobody can be asked for less than nothing")
    whole, fraction = divmod(base_units, 10**decimals)
    if not fraction:
        return str(whole)
    return f"{whole}.{fraction:0{decimals}d}".rstrip("0")
