"""Reads from Solana which transfers name a reference, and counts each of them once.

A transfer counts when it is final and without error, goes to the recipient (its associated account
for a token), and names the reference in the same instruction, as the first of its extra keys: one
transfer with two references pays one order. Instructions that programs run inside count alike; a
transfer hidden in another form (a token program's batch, Token-2022) does not. What is counted of
a transaction is never more than what it left at the recipient.

Only `send_rpc_request` is used: the client's typed calls panic past `except Exception` on answers
they do not expect. Source: solana.com/docs/rpc/http.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypeVar, cast

import structlog
from pydantic import ValidationError
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.jsonrpc import JsonRpcRequest, SolanaJsonRpcError
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import get_associated_token_address
from typing_extensions import TypedDict  # pydantic asks for this one below Python 3.12

from smartpay_payments.domain.payment import Transfer

log = structlog.get_logger()

SYSTEM_PROGRAM = "11111111111111111111111111111111"
TOKEN_PROGRAM = str(TOKEN_PROGRAM_ID)
SYSTEM_TRANSFER = 2  # the System program's number of the instruction
TOKEN_TRANSFER, TOKEN_TRANSFER_CHECKED = 3, 12  # the SPL Token program's
HISTORY_PAGE = 1000  # the cluster's limit for getSignaturesForAddress
HISTORY_PAGES_MAX = 10  # nobody pays in ten thousand parts; a flood goes to a person
READS_PER_LOOK_MAX = 50  # transactions fetched by one look; what was read is not read again
REMEMBERED_MAX = 10_000  # transactions remembered; they are final and never change
FINAL = "finalized"
DIGITS = {c: i for i, c in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}

T = TypeVar("T")


class ChainUnsureError(Exception):
    """The chain gave no usable answer; `why` is a short code for the record."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class HistoryRow(TypedDict):
    """One transaction that names an address."""

    signature: str
    err: object
    confirmationStatus: NotRequired[str | None]
    blockTime: NotRequired[int | None]


class Compiled(TypedDict):
    """An instruction whose accounts are indexes; its data is base58."""

    programIdIndex: int
    accounts: list[int]
    data: str


class Inner(TypedDict):
    """The instructions that one instruction ran inside."""

    index: int
    instructions: list[Compiled]


class Header(TypedDict):
    """How many of a message's first keys signed it."""

    numRequiredSignatures: int


class Message(TypedDict):
    """What was signed."""

    header: Header
    accountKeys: list[str]
    instructions: list[Compiled]


class Body(TypedDict):
    """A transaction's message."""

    message: Message


class Amount(TypedDict):
    """A token amount in base units, as text."""

    amount: str


class TokenBalance(TypedDict):
    """What a token account of the transaction held."""

    accountIndex: int
    owner: NotRequired[str | None]
    uiTokenAmount: Amount


class Loaded(TypedDict):
    """Keys that came out of lookup tables."""

    writable: list[str]
    readonly: list[str]


class Meta(TypedDict):
    """What a transaction did."""

    err: object
    preBalances: list[int]
    postBalances: list[int]
    preTokenBalances: NotRequired[list[TokenBalance] | None]
    postTokenBalances: NotRequired[list[TokenBalance] | None]
    innerInstructions: NotRequired[list[Inner] | None]
    loadedAddresses: NotRequired[Loaded | None]


class TransactionView(TypedDict):
    """The answer of getTransaction in JSON."""

    transaction: Body
    meta: Meta | None


# What lags behind or never was is told as null.
MaybeTransaction = cast("type[TransactionView | None]", TransactionView | None)


class SolanaRpc:
    """One JSON-RPC connection pool. Every failure to get an answer is ChainUnsureError.

    Args:
        url: the node's address.
        timeout_seconds: for one call.
        connections_max: sockets kept; calls beyond wait in the pool.
    """

    def __init__(self, url: str, *, timeout_seconds: float, connections_max: int) -> None:
        # The client's own silent second post would hide from us how often we asked.
        self._client = AsyncClient(
            url,
            timeout=timeout_seconds,
            max_connections=connections_max,
            http2=False,
            max_transport_retries=0,
        )

    async def call(self, answer_type: type[T], method: str, *params: object) -> T:
        """Calls a method and answers its result, checked to have the type.

        Raises:
            SolanaJsonRpcError: the node answered with an error.
            ChainUnsureError: the node gave no answer that can be used.
        """
        request = JsonRpcRequest(method=method, params=list(params))
        try:
            return cast("T", await self._client.send_rpc_request(request, answer_type))
        except SolanaRpcException as error:
            raise ChainUnsureError("no_answer") from error
        except ValidationError as error:
            raise ChainUnsureError("unreadable_answer") from error

    async def ask(self, answer_type: type[T], method: str, *params: object) -> T:
        """Calls a method that only reads: an error answer leaves us as wise as no answer."""
        try:
            return await self.call(answer_type, method, *params)
        except SolanaJsonRpcError as error:
            raise ChainUnsureError(f"rpc_error_{error.code}") from error

    async def close(self) -> None:
        """Closes the pool."""
        await self._client.close()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which transfers count for an attempt. Addresses are base58."""

    recipient: str
    reference: str
    mint: str = ""
    """Empty for SOL."""

    @property
    def destination(self) -> str:
        """The account that the transfer must credit."""
        return token_account(self.recipient, self.mint) if self.mint else self.recipient


def token_account(owner: str, mint: str) -> str:
    """Names the one account where wallets send an owner's tokens."""
    address = get_associated_token_address(Pubkey.from_string(owner), Pubkey.from_string(mint))
    return str(address)


class SolanaChain:
    """The chain that payers pay on, read only at finalized: what is final is never taken back.

    Args:
        rpc: the node.
        genesis_hash: the chain this must be; empty trusts the one first seen.
    """

    def __init__(self, rpc: SolanaRpc, genesis_hash: str = "") -> None:
        self.rpc = rpc
        self.genesis_hash = genesis_hash
        """The chain's name, empty until one was seen or set."""
        self._is_verified = False
        self._rent: int | None = None
        self._read: OrderedDict[tuple[Wanted, str], tuple[Transfer, ...]] = OrderedDict()

    async def verify(self, genesis_hash: str = "") -> None:
        """Makes sure that this is the pinned chain, and an attempt's own.

        Args:
            genesis_hash: of the chain the attempt began on; empty when that was not known.

        Raises:
            ChainUnsureError: it is another chain, or can't be asked.
        """
        if not self._is_verified:
            seen = await self.rpc.ask(str, "getGenesisHash")
            if self.genesis_hash not in ("", seen):
                log.error("the Solana node serves another chain than the pinned one", seen=seen)
                raise ChainUnsureError("wrong_chain")
            self.genesis_hash, self._is_verified = seen, True
        if genesis_hash not in ("", self.genesis_hash):
            log.error("an attempt began on another chain", attempt_chain=genesis_hash)
            raise ChainUnsureError("wrong_chain")

    async def transfers(self, wanted: Wanted) -> list[Transfer]:
        """Reads all transfers that count, oldest first.

        Raises:
            ChainUnsureError: the chain can't be read whole now; asking again may go further.
        """
        found: list[Transfer] = []
        reads_left = READS_PER_LOOK_MAX
        for signature in await self.history(wanted.reference):
            transfers = self._read.get((wanted, signature))
            if transfers is None:
                if not reads_left:
                    raise ChainUnsureError("history_too_long")
                reads_left -= 1
                view = await self.transaction(signature)
                transfers = tuple(transfers_in(signature, view, wanted))
                self._remember((wanted, signature), transfers)
            found += transfers
        return found

    async def history(self, address: str) -> list[str]:
        """Lists the final, faultless transactions that name an address, oldest first.

        Raises:
            ChainUnsureError: there are too many, or the chain can't be read.
        """
        found = {row["signature"]: None async for row in self.rows(address, HISTORY_PAGES_MAX)}
        return list(reversed(found))

    async def rows(self, address: str, pages_max: int) -> AsyncIterator[HistoryRow]:
        """Yields the final, faultless transactions that name an address, newest first.

        Raises:
            ChainUnsureError: when iterated, and there are too many, or the chain can't be read.
        """
        options = {"commitment": FINAL, "limit": HISTORY_PAGE}
        for _ in range(pages_max):
            page = await self.rpc.ask(
                list[HistoryRow], "getSignaturesForAddress", address, dict(options)
            )
            for row in page:
                # Asked for final rows only; a node that mixes in others must not be believed.
                if row["err"] is None and row.get("confirmationStatus", FINAL) in (None, FINAL):
                    yield row
            if len(page) < HISTORY_PAGE:
                return
            options["before"] = page[-1]["signature"]
        raise ChainUnsureError("history_too_long")

    async def transaction(self, signature: str) -> TransactionView:
        """Reads a final transaction; raises ChainUnsureError when the node lags behind."""
        options = {"commitment": FINAL, "encoding": "json", "maxSupportedTransactionVersion": 0}
        view = await self.rpc.ask(MaybeTransaction, "getTransaction", signature, options)
        if view is None or view["meta"] is None:
            raise ChainUnsureError("history_lags")
        return view

    async def rent_of_nothing(self) -> int:
        """Answers what an account without data must hold, in lamports; raises ChainUnsureError."""
        if self._rent is None:
            self._rent = await self.rpc.ask(int, "getMinimumBalanceForRentExemption", 0)
        return self._rent

    def _remember(self, key: tuple[Wanted, str], transfers: tuple[Transfer, ...]) -> None:
        self._read[key] = transfers
        if len(self._read) > REMEMBERED_MAX:
            self._read.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Movement:
    """One transfer instruction that ran, wherever in the transaction it stood."""

    path: str
    """Its place: "2", or "2.0" for the first that instruction 2 ran inside."""
    source: int
    """Index of the account debited."""
    destination: int
    authority: int
    base_units: int
    is_token: bool
    references: tuple[int, ...]
    """Indexes of the extra keys that signed nothing, in order."""


def keys_of(view: TransactionView) -> list[str]:
    """Lists a transaction's keys by index, those from lookup tables last."""
    meta = view["meta"]
    loaded = meta.get("loadedAddresses") if meta else None
    keys = view["transaction"]["message"]["accountKeys"]
    return [*keys, *loaded["writable"], *loaded["readonly"]] if loaded else keys


def transfers_in(signature: str, view: TransactionView, wanted: Wanted) -> Iterator[Transfer]:
    """Yields the transfers of one transaction that count.

    What the recipient's account gained is shared out among all transfers to it in their order,
    those of other references too. So the same money never counts for two.

    Raises:
        ChainUnsureError: the transaction can't be made sense of.
    """
    for reference, transfer in arrivals_in(signature, view, wanted.recipient, wanted.mint):
        if reference == wanted.reference:
            yield transfer


def arrivals_in(
    signature: str, view: TransactionView, recipient: str, mint: str
) -> Iterator[tuple[str, Transfer]]:
    """Yields all that one transaction brought a recipient, with the reference it names or "".

    Args:
        signature: the transaction's.
        view: the transaction.
        recipient: the wallet.
        mint: the token's; empty for SOL.

    Raises:
        ChainUnsureError: the transaction can't be made sense of.
    """
    meta, keys = view["meta"], keys_of(view)
    credited = token_account(recipient, mint) if mint else recipient
    if meta is None or meta["err"] is not None or credited not in keys:
        return
    destination = keys.index(credited)
    try:
        before, after = _holdings(meta, mint)
        left = after.get(destination, (0, ""))[0] - before.get(destination, (0, ""))[0]
        for movement in movements(view):
            # Lamports can be sent to a token account too; they are no tokens.
            if movement.destination != destination or movement.is_token != bool(mint):
                continue
            counted = max(0, min(movement.base_units, left))
            left -= counted
            held = before.get(movement.source) or after.get(movement.source)
            payer = (held[1] if held and mint else "") or keys[movement.authority]
            reference = keys[movement.references[0]] if movement.references else ""
            if counted and payer != recipient:
                yield reference, Transfer(f"{signature}:{movement.path}", counted, payer)
    except (IndexError, ValueError) as error:
        raise ChainUnsureError("unreadable_transaction") from error


def movements(view: TransactionView) -> Iterator[Movement]:
    """Yields every transfer instruction of the System and SPL Token programs that ran.

    Raises:
        IndexError: an instruction names an account that is not there.
        ValueError: an instruction's data is not base58.
    """
    keys = keys_of(view)
    signers = view["transaction"]["message"]["header"]["numRequiredSignatures"]
    for path, instruction in _instructions(view):
        program, accounts = keys[instruction["programIdIndex"]], instruction["accounts"]
        kind = _kind(program, data := _data(instruction["data"]))
        if kind is None:
            continue
        # Signers among the extra keys are a multisig's members, not references.
        references = tuple(index for index in accounts[kind.accounts :] if index >= signers)
        yield Movement(
            path=path,
            source=accounts[0],
            destination=accounts[kind.destination],
            authority=accounts[kind.authority],
            base_units=struct.unpack_from("<Q", data, kind.amount_offset)[0],
            is_token=kind.is_token,
            references=references,
        )


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a transfer instruction has what; its source always stands first."""

    destination: int
    authority: int
    accounts: int
    """How many accounts it has; whatever follows is extra."""
    amount_offset: int
    is_token: bool


_SYSTEM = _Kind(destination=1, authority=0, accounts=2, amount_offset=4, is_token=False)
_TOKEN = _Kind(destination=1, authority=2, accounts=3, amount_offset=1, is_token=True)
_CHECKED = _Kind(destination=2, authority=3, accounts=4, amount_offset=1, is_token=True)


def _kind(program: str, data: bytes) -> _Kind | None:
    if program == SYSTEM_PROGRAM and len(data) == 12:
        return _SYSTEM if data[:4] == SYSTEM_TRANSFER.to_bytes(4, "little") else None
    if program != TOKEN_PROGRAM:
        return None
    if data[:1] == bytes([TOKEN_TRANSFER]) and len(data) == 9:
        return _TOKEN
    return _CHECKED if data[:1] == bytes([TOKEN_TRANSFER_CHECKED]) and len(data) == 10 else None


def _instructions(view: TransactionView) -> Iterator[tuple[str, Compiled]]:
    meta = view["meta"]
    inner = {g["index"]: g["instructions"] for g in (meta and meta.get("innerInstructions")) or ()}
    for index, instruction in enumerate(view["transaction"]["message"]["instructions"]):
        yield str(index), instruction
        for within, ran in enumerate(inner.get(index, ())):
            yield f"{index}.{within}", ran


Holdings = dict[int, tuple[int, str]]


def _holdings(meta: Meta, mint: str) -> tuple[Holdings, Holdings]:
    """Answers (base units, owner) by account index, before and after."""
    if not mint:
        told = (meta["preBalances"], meta["postBalances"])
        before, after = ({i: (units, "") for i, units in enumerate(each)} for each in told)
        return before, after

    def held(balances: Sequence[TokenBalance] | None) -> Holdings:
        return {
            b["accountIndex"]: (int(b["uiTokenAmount"]["amount"]), b.get("owner") or "")
            for b in balances or ()
        }

    return held(meta.get("preTokenBalances")), held(meta.get("postTokenBalances"))


def _data(text: str) -> bytes:
    """Reads base58; transfers are short, so whatever is long is none and stays unread."""
    if len(text) > 20:
        return b""
    number = 0
    for character in text:
        if character not in DIGITS:
            raise ValueError("not base58")
        number = number * 58 + DIGITS[character]
    body = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes(len(text) - len(text.lstrip("1"))) + body
