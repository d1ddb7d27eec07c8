"""The people on the sandbox's chain: wallets that pay `solana:` addresses, and who funds them.

Wallets are named, and their keys made out of the names. They always have enough: the faucet sees
to it, and mints the sandbox's own tokens. Their transactions look like a phone wallet's, with its
own budget instructions in front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from solders.transaction import VersionedTransaction

from smartpay_sandbox.solana_ledger import SolanaLedger
from smartpay_sandbox.solana_tokens import (
    TOKEN_PROGRAM_ID,
    create_token_account,
    initialize_mint,
    mint_to,
    token_account_address,
    transfer_tokens,
)
from smartpay_sandbox.solana_transfer_request import base_units, read_transfer_request
from smartpay_sandbox.solana_views import (
    MEMO_PROGRAM_ID,
    MINT_BYTES,
    Json,
    mint_of,
    token_account_of,
)

SOL_DECIMALS, TOKEN_DECIMALS = 9, 6
COMPUTE_UNITS_MAX = 200_000  # a wallet's usual bid; a transfer needs a hundredth of it
SPARE_LAMPORTS = 100 * 10**9  # a payer is filled up for many payments and their fees at once
SPARE_TOKENS = 100_000 * 10**6
MORE_THAN_THERE_IS = 2**62


def mint_key(name: str) -> Keypair:
    """Return the key of a six-decimal token's mint: the same on every machine."""
    return Keypair.from_seed(sha256(f"smartpay sandbox mint {name}".encode()).digest())


USDC = "USDC"
USDC_MINT = str(mint_key(USDC).pubkey())
"""The sandbox's USDC. Every other token of the same name elsewhere is a look-alike."""


@dataclass(frozen=True)
class Funds:
    """What a wallet should have at least, in whole coins."""

    address: str
    sol: str = "0"
    usdc: str = "0"


@dataclass(frozen=True)
class PayOrder:
    """How a person follows a `solana:` address, and where they stray from it."""

    url: str
    payer: str = "payer"
    """Name of the wallet that pays."""
    amount: str | None = None
    """In whole coins, instead of the asked one."""
    mint: str | None = None
    """SOL, or a token's name (any but USDC is a look-alike), instead of the asked one."""
    recipient: str | None = None
    """Instead of the asked one."""
    references: Sequence[str] | None = None
    """Instead of the asked ones."""
    extra_references: Sequence[str] = ()
    """After the asked ones."""
    legacy: bool = False
    """Whether the wallet still speaks the old message format."""
    fails: bool = False
    """Whether the transaction lands with an error, so that nothing moves."""


def read_pay_order(body: Json) -> PayOrder:
    """Read an order out of JSON; raises ValueError naming the wrong field."""
    return PayOrder(**_read(body, PayOrder))


def read_funds(body: Json) -> Funds:
    """Read what a wallet should have out of JSON; raises ValueError naming the wrong field."""
    return Funds(**_read(body, Funds))


def _read(body: Json, kind: type[PayOrder] | type[Funds]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    if not isinstance(body, Mapping) or names[0] not in body:
        raise ValueError(f"{names[0]}: send a JSON object with at least this")
    for name, value in body.items():
        if name not in names:
            raise ValueError(f"{name}: unknown; use one of {', '.join(names)}")
        needed = {"legacy": bool, "fails": bool}.get(name, list if "references" in name else str)
        if not isinstance(value, needed):
            raise ValueError(f"{name}: has the wrong JSON type; see the sandbox README")
    return dict(body)


class Wallets:
    """Acts for everybody on the chain who is not us; must stay on the ledger's thread."""

    def __init__(self, ledger: SolanaLedger) -> None:
        self._ledger = ledger

    def key(self, name: str) -> Keypair:
        """Return the key of a named wallet; it is this chain's own."""
        text = f"smartpay sandbox wallet {self._ledger.genesis_hash} {name}"
        return Keypair.from_seed(sha256(text.encode()).digest())

    def fund(self, funds: Funds) -> None:
        """Fill a wallet up to the wanted coins; does nothing when it has them.

        Raises:
            ValueError: an address or amount that can't be read.
        """
        owner = _address("address", funds.address)
        self._fill_lamports(owner, base_units(funds.sol, SOL_DECIMALS), spare=0)
        if wanted := base_units(funds.usdc, TOKEN_DECIMALS):
            self._fill(owner, self._token(USDC), wanted, spare=0)

    def pay(self, order: PayOrder) -> dict[str, str]:
        """Make the transfer that a wallet would make; returns signature, payer and mint.

        Raises:
            ValueError: the address, or how it is strayed from, can't be followed.
        """
        request = read_transfer_request(order.url)
        amount = order.amount or request.amount
        if amount is None:
            raise ValueError("amount: the address leaves it open, so name one")
        payer = self.key(order.payer)
        to = (
            request.recipient if order.recipient is None else _address("recipient", order.recipient)
        )
        mint = request.spl_token
        if order.mint is not None:
            mint = None if order.mint == "SOL" else self._token(order.mint)
        elif mint is not None and str(mint) == USDC_MINT:
            self._token(USDC)
        if mint is None:
            lamports = base_units(amount, SOL_DECIMALS)
            self._fill_lamports(payer.pubkey(), lamports + SPARE_LAMPORTS // 10)
            movement = _sol(payer.pubkey(), to, lamports)
        else:
            self._fill_lamports(payer.pubkey(), SPARE_LAMPORTS // 10)
            movement = self._token_movement(payer.pubkey(), to, mint, amount)
        replaced, extra = order.references, order.extra_references
        keys = [
            *(
                request.references
                if replaced is None
                else [_address("references", each) for each in replaced]
            ),
            *(_address("extra_references", each) for each in extra),
        ]
        named = [AccountMeta(key, is_signer=False, is_writable=False) for key in keys]
        instructions = [
            *([_memo(payer.pubkey(), request.memo)] if request.memo else []),
            Instruction(movement.program_id, movement.data, [*movement.accounts, *named]),
            *([_sol(payer.pubkey(), to, MORE_THAN_THERE_IS)] if order.fails else []),
        ]
        signature, err = self._send(instructions, [payer], legacy=order.legacy)
        if (err is None) == order.fails:
            raise ValueError(f"the chain refuses the transfer: {json.dumps(err)}")
        return {
            "signature": signature,
            "payer": str(payer.pubkey()),
            "mint": "" if mint is None else str(mint),
        }

    def _token_movement(self, payer: Pubkey, to: Pubkey, mint: Pubkey, amount: str) -> Instruction:
        token = mint_of(self._ledger.account(mint))
        if token is None:
            raise ValueError("mint: there is no such token on this chain")
        destination = token_account_address(to, mint)
        if token_account_of(self._ledger.account(destination)) is None:
            # A wallet that follows the specification pays into an existing account only.
            if str(mint) == USDC_MINT:
                raise ValueError("recipient: has no USDC account; fund it with some USDC first")
            self._fill(to, mint, 0, spare=0)
        sent = base_units(amount, token.decimals)
        self._fill(payer, mint, sent)
        source = token_account_address(payer, mint)
        return transfer_tokens(source, mint, destination, payer, sent, token.decimals)

    def _token(self, name: str) -> Pubkey:
        """Return a token of the sandbox, which is made when it is asked for the first time."""
        key = mint_key(name)
        mint = key.pubkey()
        if self._ledger.account(mint) is None:
            faucet = self._ledger.faucet.pubkey()
            rent = self._ledger.rent_exempt_lamports(MINT_BYTES)
            made = CreateAccountParams(
                from_pubkey=faucet,
                to_pubkey=mint,
                lamports=rent,
                space=MINT_BYTES,
                owner=TOKEN_PROGRAM_ID,
            )
            steps = [create_account(made), initialize_mint(mint, faucet, TOKEN_DECIMALS)]
            self._demand(steps, [self._ledger.faucet, key])
        return mint

    def _fill_lamports(self, owner: Pubkey, wanted: int, *, spare: int = SPARE_LAMPORTS) -> None:
        account = self._ledger.account(owner)
        held = 0 if account is None else account.lamports
        if held < wanted:
            self._ledger.airdrop(owner, wanted + spare - held)

    def _fill(self, owner: Pubkey, mint: Pubkey, wanted: int, *, spare: int = SPARE_TOKENS) -> None:
        """Make the owner's token account and put in what is missing."""
        address, faucet = token_account_address(owner, mint), self._ledger.faucet.pubkey()
        held = token_account_of(self._ledger.account(address))
        if held is not None and held.amount >= wanted:
            return
        steps = [create_token_account(faucet, owner, mint)]
        if wanted:
            missing = wanted + spare - (0 if held is None else held.amount)
            steps.append(mint_to(mint, address, faucet, missing, TOKEN_DECIMALS))
        self._demand(steps, [self._ledger.faucet])

    def _demand(self, instructions: list[Instruction], signers: list[Keypair]) -> None:
        _, err = self._send(instructions, signers)
        if err is not None:
            raise ValueError(f"mint: the faucet can't make this token's coins: {json.dumps(err)}")

    def _send(
        self, instructions: list[Instruction], signers: list[Keypair], *, legacy: bool = False
    ) -> tuple[str, Json]:
        """Sign and run a transaction; returns its signature and error.

        The price carries a running number: without it two equal payments in one slot would be one.
        """
        payer = signers[0].pubkey()
        budget = [
            set_compute_unit_limit(COMPUTE_UNITS_MAX),
            set_compute_unit_price(self._ledger.landed_count()),
        ]
        blockhash = Hash.from_string(self._ledger.blockhash_of(self._ledger.slot))
        steps = [*budget, *instructions]
        message: Message | MessageV0 = (
            Message.new_with_blockhash(steps, payer, blockhash)
            if legacy
            else MessageV0.try_compile(payer, steps, [], blockhash)
        )
        transaction = VersionedTransaction(message, signers)
        verdict = self._ledger.execute(transaction)
        if not verdict.landed:
            raise ValueError(f"the chain took no transaction: {json.dumps(verdict.err)}")
        return str(transaction.signatures[0]), verdict.err


def _address(name: str, text: str) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: must be a base58 address") from error


def _sol(payer: Pubkey, to: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=payer, to_pubkey=to, lamports=lamports))


def _memo(payer: Pubkey, text: str) -> Instruction:
    return Instruction(MEMO_PROGRAM_ID, text.encode(), [AccountMeta(payer, True, True)])
