"""The few instructions of Solana's token programs that the sandbox itself sends.

Layouts: docs.rs/spl-token (`TokenInstruction`), docs.rs/spl-associated-token-account.
"""

from __future__ import annotations

import struct

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID

TOKEN_PROGRAM_ID = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
ASSOCIATED_TOKEN_PROGRAM_ID = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
TRANSFER_CHECKED, MINT_TO_CHECKED, INITIALIZE_MINT2 = 12, 14, 20  # the SPL Token program's numbers
CREATE_IDEMPOTENT = 1  # the Associated Token program's


def token_account_address(owner: Pubkey, mint: Pubkey) -> Pubkey:
    """Return the one account where wallets send an owner's tokens."""
    seeds = [bytes(owner), bytes(TOKEN_PROGRAM_ID), bytes(mint)]
    return Pubkey.find_program_address(seeds, ASSOCIATED_TOKEN_PROGRAM_ID)[0]


def create_token_account(payer: Pubkey, owner: Pubkey, mint: Pubkey) -> Instruction:
    """Make an owner's token account unless it is there."""
    accounts = [
        AccountMeta(payer, True, True),
        AccountMeta(token_account_address(owner, mint), False, True),
        *(AccountMeta(key, False, False) for key in (owner, mint)),
        *(AccountMeta(key, False, False) for key in (SYSTEM_PROGRAM_ID, TOKEN_PROGRAM_ID)),
    ]
    return Instruction(ASSOCIATED_TOKEN_PROGRAM_ID, bytes([CREATE_IDEMPOTENT]), accounts)


def initialize_mint(mint: Pubkey, authority: Pubkey, decimals: int) -> Instruction:
    """Make a fresh account a token that nobody can freeze."""
    data = struct.pack("<BB32sB", INITIALIZE_MINT2, decimals, bytes(authority), 0)
    return Instruction(TOKEN_PROGRAM_ID, data, [AccountMeta(mint, False, True)])


def mint_to(
    mint: Pubkey, account: Pubkey, authority: Pubkey, base_units: int, decimals: int
) -> Instruction:
    """Put new tokens into an account."""
    accounts = [
        AccountMeta(mint, False, True),
        AccountMeta(account, False, True),
        AccountMeta(authority, True, False),
    ]
    data = struct.pack("<BQB", MINT_TO_CHECKED, base_units, decimals)
    return Instruction(TOKEN_PROGRAM_ID, data, accounts)


def transfer_tokens(
    source: Pubkey, mint: Pubkey, destination: Pubkey, owner: Pubkey, base_units: int, decimals: int
) -> Instruction:
    """Move tokens between two accounts."""
    accounts = [
        AccountMeta(source, False, True),
        AccountMeta(mint, False, False),
        AccountMeta(destination, False, True),
        AccountMeta(owner, True, False),
    ]
    data = struct.pack("<BQB", TRANSFER_CHECKED, base_units, decimals)
    return Instruction(TOKEN_PROGRAM_ID, data, accounts)
