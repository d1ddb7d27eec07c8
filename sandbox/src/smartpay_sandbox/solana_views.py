"""How accounts and transactions look on Solana's JSON-RPC wire.

Shapes follow the RPC reference at solana.com/docs/rpc. Amounts stay integers and strings; the one
float (`uiAmount`) is the wire's own and is read by nobody here.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from solders.account import Account
from solders.instruction import CompiledInstruction
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import TransactionMetadata

Json = Any  # one JSON value on the wire, whose shape only the RPC method knows

MINT_BYTES, TOKEN_ACCOUNT_BYTES = 82, 165  # the two layouts of SPL Token
TOKEN_PROGRAM_IDS = {
    Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"): "spl-token",
    Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"): "spl-token-2022",
}
MEMO_PROGRAM_ID = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
MEMO_PROGRAM_IDS = {
    MEMO_PROGRAM_ID,
    Pubkey.from_string("Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"),
}
BASE58_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
RENT_EPOCH_EXEMPT = 2**64 - 1  # what validators answer for every rent-exempt account

AccountReader = Callable[[Pubkey], Account | None]


@dataclass(frozen=True)
class Mint:
    """The part of an SPL mint that a reader asks for; `supply` is in base units."""

    authority: Pubkey | None
    supply: int
    decimals: int
    initialized: bool
    freeze_authority: Pubkey | None


@dataclass(frozen=True)
class TokenAccount:
    """The part of an SPL token account that a reader asks for; `amount` is in base units."""

    mint: Pubkey
    owner: Pubkey
    amount: int
    state: str


def base58(raw: bytes) -> str:
    """Spell bytes in Bitcoin's base58; each leading zero byte becomes one leading 1."""
    number = int.from_bytes(raw, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58_ALPHABET[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


def base58_bytes(text: str) -> bytes:
    """Read base58; raises ValueError on a character outside the alphabet."""
    number = 0
    for character in text:
        number = number * 58 + BASE58_ALPHABET.index(character)
    body = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return b"\0" * (len(text) - len(text.lstrip("1"))) + body


def mint_of(account: Account | None) -> Mint | None:
    """Read an account as an SPL mint, or None when it is none (layout: SPL Token `Mint`)."""
    if account is None or not _token_kind(account, MINT_BYTES, 1):
        return None
    data = account.data
    has_authority, authority, supply, decimals, initialized = struct.unpack_from("<I32sQB?", data)
    has_freeze, freeze = struct.unpack_from("<I32s", data, 46)
    return Mint(
        authority=Pubkey(authority) if has_authority else None,
        supply=supply,
        decimals=decimals,
        initialized=initialized,
        freeze_authority=Pubkey(freeze) if has_freeze else None,
    )


def token_account_of(account: Account | None) -> TokenAccount | None:
    """Read an account as an SPL token account, or None (layout: SPL Token `Account`)."""
    if account is None or not _token_kind(account, TOKEN_ACCOUNT_BYTES, 2):
        return None
    mint, owner, amount = struct.unpack_from("<32s32sQ", account.data)
    state = ("uninitialized", "initialized", "frozen")[account.data[108]]
    return TokenAccount(Pubkey(mint), Pubkey(owner), amount, state)


def _token_kind(account: Account, length: int, kind: int) -> bool:
    """Tell mints from token accounts: by length, or with extensions by the byte at 165."""
    if account.owner not in TOKEN_PROGRAM_IDS:
        return False
    size = len(account.data)
    return size == length or (
        size > TOKEN_ACCOUNT_BYTES and account.data[TOKEN_ACCOUNT_BYTES] == kind
    )


def token_amount(amount: int, decimals: int) -> dict[str, Any]:
    """Return the wire's UiTokenAmount."""
    exact = Decimal(amount).scaleb(-decimals)
    text = f"{exact:f}"
    return {
        "amount": str(amount),
        "decimals": decimals,
        "uiAmount": float(exact),
        "uiAmountString": text.rstrip("0").rstrip(".") if "." in text else text,
    }


def account_json(
    account: Account | None,
    encoding: str,
    data_slice: Mapping[str, int] | None,
    read: AccountReader,
) -> dict[str, Any] | None:
    """Return the wire's UiAccount; jsonParsed knows tokens and else falls back to base64."""
    if account is None:
        return None
    data: Any = _parsed_token(account, read) if encoding == "jsonParsed" else None
    if data is None:
        raw = bytes(account.data)
        if data_slice is not None:
            raw = raw[data_slice["offset"] : data_slice["offset"] + data_slice["length"]]
        if encoding == "base58":
            data = [base58(raw), "base58"]
        else:
            data = [base64.b64encode(raw).decode(), "base64"]
    return {
        "lamports": account.lamports,
        "owner": str(account.owner),
        "data": data,
        "executable": account.executable,
        "rentEpoch": RENT_EPOCH_EXEMPT,
        "space": len(account.data),
    }


def _parsed_token(account: Account, read: AccountReader) -> dict[str, Any] | None:
    info: dict[str, Any]
    if mint := mint_of(account):
        kind = "mint"
        info = {
            "decimals": mint.decimals,
            "freezeAuthority": None
            if mint.freeze_authority is None
            else str(mint.freeze_authority),
            "isInitialized": mint.initialized,
            "mintAuthority": None if mint.authority is None else str(mint.authority),
            "supply": str(mint.supply),
        }
    elif (held := token_account_of(account)) and (mint := mint_of(read(held.mint))):
        kind = "account"
        info = {
            "isNative": False,
            "mint": str(held.mint),
            "owner": str(held.owner),
            "state": held.state,
            "tokenAmount": token_amount(held.amount, mint.decimals),
        }
    else:
        return None
    program = TOKEN_PROGRAM_IDS[account.owner]
    space = len(account.data)
    return {"program": program, "parsed": {"info": info, "type": kind}, "space": space}


def memo_of(transaction: VersionedTransaction) -> str | None:
    """Return the text of a transaction's memo instructions, joined by "; ", or None."""
    keys = transaction.message.account_keys
    memos = [
        bytes(instruction.data).decode(errors="replace")
        for instruction in transaction.message.instructions
        if instruction.program_id_index < len(keys)
        and keys[instruction.program_id_index] in MEMO_PROGRAM_IDS
    ]
    return "; ".join(memos) if memos else None


def execution_meta(
    execution: TransactionMetadata,
    err: Json,
    keys: list[Pubkey],
    loaded: tuple[list[Pubkey], list[Pubkey]],
    before: Mapping[Pubkey, Account | None],
    after: Mapping[Pubkey, Account | None],
    read: AccountReader,
) -> dict[str, Any]:
    """Return the `meta` of getTransaction, kept as it was at the moment the transaction landed."""
    inner = [
        {
            "index": index,
            "instructions": [
                _compiled(entry.instruction()) | {"stackHeight": entry.stack_height()}
                for entry in entries
            ],
        }
        for index, entries in enumerate(execution.inner_instructions())
        if entries
    ]
    return {
        "err": err,
        "status": {"Ok": None} if err is None else {"Err": err},
        "fee": execution.fee(),
        "preBalances": [_lamports(before[key]) for key in keys],
        "postBalances": [_lamports(after[key]) for key in keys],
        "preTokenBalances": _token_balances(keys, before, read),
        "postTokenBalances": _token_balances(keys, after, read),
        "innerInstructions": inner,
        "logMessages": execution.logs(),
        "computeUnitsConsumed": execution.compute_units_consumed(),
        "loadedAddresses": {
            "writable": [str(key) for key in loaded[0]],
            "readonly": [str(key) for key in loaded[1]],
        },
        "rewards": [],
    }


def _lamports(account: Account | None) -> int:
    return 0 if account is None else int(account.lamports)


def _token_balances(
    keys: list[Pubkey], accounts: Mapping[Pubkey, Account | None], read: AccountReader
) -> list[dict[str, Any]]:
    balances = []
    for index, key in enumerate(keys):
        account = accounts[key]
        held = token_account_of(account)
        mint = mint_of(read(held.mint)) if held else None
        if account is not None and held is not None and mint is not None:
            balances.append(
                {
                    "accountIndex": index,
                    "mint": str(held.mint),
                    "owner": str(held.owner),
                    "programId": str(account.owner),
                    "uiTokenAmount": token_amount(held.amount, mint.decimals),
                }
            )
    return balances


def transaction_json(wire: bytes, encoding: str, meta: Mapping[str, Any]) -> Json:
    """Return the `transaction` of getTransaction in the asked encoding.

    jsonParsed answers every instruction partially decoded (programId, accounts, data), which is
    what a validator does for programs it cannot parse.
    """
    if encoding in ("base64", "base58"):
        text = base64.b64encode(wire).decode() if encoding == "base64" else base58(wire)
        return [text, encoding]
    transaction = VersionedTransaction.from_bytes(wire)
    message = transaction.message
    loaded = meta["loadedAddresses"]
    keys = [str(key) for key in message.account_keys] + loaded["writable"] + loaded["readonly"]
    body: dict[str, Any] = {"recentBlockhash": str(message.recent_blockhash)}
    if encoding == "jsonParsed":
        body["accountKeys"] = _parsed_keys(transaction, loaded)
        body["instructions"] = [
            {
                "programId": keys[instruction.program_id_index],
                "accounts": [keys[index] for index in instruction.accounts],
                "data": base58(bytes(instruction.data)),
                "stackHeight": 1,
            }
            for instruction in message.instructions
        ]
    else:
        header = message.header
        body["header"] = {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        }
        body["accountKeys"] = [str(key) for key in message.account_keys]
        body["instructions"] = [
            _compiled(instruction) | {"stackHeight": 1} for instruction in message.instructions
        ]
    lookups = getattr(message, "address_table_lookups", None)
    if lookups is not None:
        body["addressTableLookups"] = [
            {
                "accountKey": str(lookup.account_key),
                "writableIndexes": list(lookup.writable_indexes),
                "readonlyIndexes": list(lookup.readonly_indexes),
            }
            for lookup in lookups
        ]
    return {"signatures": [str(each) for each in transaction.signatures], "message": body}


def version_of(wire: bytes) -> str | int:
    """Return "legacy" or 0, as getTransaction spells a message's version."""
    version = VersionedTransaction.from_bytes(wire).version()
    return version if isinstance(version, int) else "legacy"


def _compiled(instruction: CompiledInstruction) -> dict[str, Any]:
    return {
        "programIdIndex": instruction.program_id_index,
        "accounts": list(instruction.accounts),
        "data": base58(bytes(instruction.data)),
    }


def _parsed_keys(
    transaction: VersionedTransaction, loaded: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    message = transaction.message
    header, count = message.header, len(message.account_keys)
    signers = header.num_required_signatures
    rows = []
    for index, key in enumerate(message.account_keys):
        signer = index < signers
        writable_until = (
            signers - header.num_readonly_signed_accounts
            if signer
            else count - header.num_readonly_unsigned_accounts
        )
        rows.append((str(key), signer, index < writable_until, "transaction"))
    rows += [(key, False, True, "lookupTable") for key in loaded["writable"]]
    rows += [(key, False, False, "lookupTable") for key in loaded["readonly"]]
    return [
        {"pubkey": key, "signer": signer, "writable": writable, "source": source}
        for key, signer, writable, source in rows
    ]


def error_text(err: Json) -> str:
    """Return a validator's sentence for a transaction error in RPC shape."""
    if isinstance(err, dict) and "InstructionError" in err:
        index, cause = err["InstructionError"]
        if isinstance(cause, dict) and "Custom" in cause:
            detail = f"custom program error: {cause['Custom']:#x}"
        else:
            detail = _words(cause if isinstance(cause, str) else next(iter(cause)))
        return f"Error processing Instruction {index}: {detail}"
    name = err if isinstance(err, str) else next(iter(err))
    return _SENTENCES.get(name, _words(name).capitalize())


def _words(name: str) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


# The sentences of solana-transaction-error's Display for the errors a sandbox user meets.
_SENTENCES = {
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "SignatureFailure": "Transaction did not pass signature verification",
}
