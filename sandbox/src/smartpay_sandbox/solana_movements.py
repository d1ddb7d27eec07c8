"""What a judge of payments needs of a transaction: who sent how much to whom, under which keys.

Read here once more and apart from the payments service's own reading, so that one checks the other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from solders.account import Account
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.transaction import VersionedTransaction

from smartpay_sandbox.solana_views import TOKEN_PROGRAM_IDS, token_account_of

CREATE_ACCOUNT_WITH_SEED, SYSTEM_TRANSFER = 3, 2  # the System program's numbers
# First byte of SPL Token's data, and where its destination and its extra keys stand.
TOKEN_TRANSFERS = {3: (1, 3), 12: (2, 4)}


@dataclass(frozen=True)
class Movement:
    """One transfer that names extra keys, or shares its transaction with a mark."""

    place: int
    payer: str
    payee: str
    """Wallets, not token accounts."""
    mint: str
    """Empty for SOL."""
    amount: int
    references: tuple[str, ...]
    mark: str
    """The account made with a seed in the same transaction; empty when there is none."""

    def as_json(self) -> str:
        """Spell it for the file."""
        return json.dumps(vars(self) | {"amount": str(self.amount)})


def movements_of(
    transaction: VersionedTransaction,
    keys: list[Pubkey],
    before: Mapping[Pubkey, Account | None],
    after: Mapping[Pubkey, Account | None],
) -> Iterator[Movement]:
    """Yield the movements of a transaction that landed without error."""
    message = transaction.message
    signers = message.header.num_required_signatures
    mark = ""
    for place, instruction in enumerate(message.instructions):
        program = keys[instruction.program_id_index]
        data, accounts = bytes(instruction.data), list(instruction.accounts)
        if program == SYSTEM_PROGRAM_ID:
            (kind,) = struct.unpack_from("<I", data)
            if kind == CREATE_ACCOUNT_WITH_SEED:
                mark = str(keys[accounts[1]])
            if kind != SYSTEM_TRANSFER:
                continue
            (amount,) = struct.unpack_from("<Q", data, 4)
            payer, payee, mint, extra = keys[accounts[0]], keys[accounts[1]], "", accounts[2:]
        elif program in TOKEN_PROGRAM_IDS and data[:1] and data[0] in TOKEN_TRANSFERS:
            destination, first_extra = TOKEN_TRANSFERS[data[0]]
            (amount,) = struct.unpack_from("<Q", data, 1)
            source, target = keys[accounts[0]], keys[accounts[destination]]
            sender = token_account_of(before[source]) or token_account_of(after[source])
            receiver = token_account_of(after[target]) or token_account_of(before[target])
            if sender is None or receiver is None:
                continue
            payer, payee, mint = sender.owner, receiver.owner, str(sender.mint)
            extra = accounts[first_extra:]
        else:
            continue
        references = tuple(str(keys[index]) for index in extra if index >= signers)
        if references or mark:
            yield Movement(place, str(payer), str(payee), mint, amount, references, mark)
