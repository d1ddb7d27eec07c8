"""The sandbox's Solana chain: a real SVM with slots, a blockhash window and a memory that survives.

LiteSVM executes the real System, Token, Associated Token and Memo programs, but it has no slots, no
150-block window and no disk. This module adds exactly these. Every landed transaction is written
to SQLite before its caller hears of it, so a killed process forgets nothing it has answered.

Deliberate limits: one node never forks, so what is processed always becomes confirmed and final, by
the mere passing of slots; durable nonces and the SlotHashes sysvar do not advance.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import (
    FailedTransactionMetadata,
    SimulatedTransactionInfo,
    TransactionMetadata,
)

from smartpay_sandbox.solana_movements import movements_of
from smartpay_sandbox.solana_views import (
    MEMO_PROGRAM_ID,
    TOKEN_PROGRAM_IDS,
    Json,
    execution_meta,
    memo_of,
)

SLOT_MILLISECONDS = 400  # Solana's own target slot time
BLOCKHASH_AGE_SLOTS_MAX = 150  # MAX_PROCESSING_AGE of the Agave validator: 151 live hashes
FINALITY_SLOTS = 2  # a real cluster needs 32; one node needs none, two keep the state visible
FAUCET_LAMPORTS = 500_000_000 * 10**9  # about the real supply: never the limit of a test
SLOTS_PER_EPOCH = 432_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS genesis (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS account (address BLOB PRIMARY KEY, account BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS landed (
  position INTEGER PRIMARY KEY, signature TEXT NOT NULL UNIQUE, slot INTEGER NOT NULL,
  block_time INTEGER NOT NULL, err TEXT, memo TEXT, wire BLOB NOT NULL, meta TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mention (
  address BLOB NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (address, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS movement (position INTEGER NOT NULL, movement TEXT NOT NULL);
"""
_LANDED_COLUMNS = "position, signature, slot, block_time, err, memo, wire, meta"


@dataclass(frozen=True)
class Landed:
    """One transaction that is on the chain, with or without an error."""

    position: int
    signature: str
    slot: int
    block_time: int
    err: Json
    memo: str | None
    wire: bytes
    meta: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What became of a transaction: `err` is in RPC shape; `landed` says whether it was charged."""

    err: Json
    landed: bool
    logs: list[str]
    units_consumed: int
    fee: int
    return_data: dict[str, Any] | None
    post_accounts: dict[Pubkey, Account]


class SolanaLedger:
    """Use this as the one owner of the SVM and its file; it must stay on one thread.

    Args:
        path: the SQLite file; its folder must exist.
        clock: seconds since 1970, injected so that tests can move time.
        confirmed_slots: how many slots pass before a transaction is confirmed.
        final_slots: how many before it is finalized.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float],
        confirmed_slots: int = 0,
        final_slots: int = FINALITY_SLOTS,
    ) -> None:
        self._clock = clock
        self._steps = {"processed": 0, "confirmed": confirmed_slots, "finalized": final_slots}
        self._database = sqlite3.connect(path, isolation_level=None)
        # The page cache outlives a killed process, so syncing would only guard against power loss.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_SCHEMA)
        self._genesis()
        self._svm = LiteSVM().with_transaction_history(0).with_blockhash_check(False)
        self._restore()
        self._slot_floor: int = self._one("SELECT coalesce(max(slot), 0) FROM landed")
        self._window: dict[str, int] = {}
        self._window_slot = -1
        self._not_final: deque[tuple[int, dict[Pubkey, Account | None]]] = deque()

    def close(self) -> None:
        """Close the file; nothing is flushed here because nothing is ever held back."""
        self._database.close()

    # --- genesis and restart ---

    def _genesis(self) -> None:
        """Write the chain's identity once, so that it is the same after every restart."""
        rows = {
            "hash": str(Hash(secrets.token_bytes(32))),
            "time_milliseconds": str(round(self._clock() * 1000)),
        }
        self._database.executemany(
            "INSERT OR IGNORE INTO genesis VALUES (?, ?)", list(rows.items())
        )
        stored = dict(self._database.execute("SELECT name, value FROM genesis"))
        self.genesis_hash: str = stored["hash"]
        self._genesis_milliseconds = int(stored["time_milliseconds"])
        seed = sha256(b"smartpay sandbox faucet" + self.genesis_hash.encode()).digest()
        self.faucet = Keypair.from_seed(seed)
        faucet_account = Account(FAUCET_LAMPORTS, b"", SYSTEM_PROGRAM_ID)
        self._database.execute(
            "INSERT OR IGNORE INTO account VALUES (?, ?)",
            (bytes(self.faucet.pubkey()), bytes(faucet_account)),
        )

    def _restore(self) -> None:
        rows = self._database.execute("SELECT address, account FROM account")
        accounts = [(Pubkey(address), Account.from_bytes(raw)) for address, raw in rows]
        # A program is loaded when it is set, and needs its data account to be there already.
        for address, account in sorted(accounts, key=lambda pair: pair[1].executable):
            self._svm.set_account(address, account)

    # --- time ---

    @property
    def slot(self) -> int:
        """The slot now; it never goes back, even when the machine's clock does.

        A chain begins with its first final slot behind it, so that every commitment has a slot.
        """
        passed = round(self._clock() * 1000) - self._genesis_milliseconds
        self._slot_floor = max(self._slot_floor, FINALITY_SLOTS + passed // SLOT_MILLISECONDS)
        return self._slot_floor

    def slot_at(self, commitment: str) -> int:
        """Return the newest slot a reader at this commitment may see."""
        return max(0, self.slot - self._steps[commitment])

    def blockhash_of(self, slot: int) -> str:
        """Return the blockhash of a slot: derived, so that a restart keeps the whole window."""
        return str(Hash(sha256(f"{self.genesis_hash}:{slot}".encode()).digest()))

    def blockhash_is_live(self, blockhash: str) -> bool:
        """Whether a transaction with this blockhash may still land."""
        slot = self.slot
        if slot != self._window_slot:
            oldest = max(0, slot - BLOCKHASH_AGE_SLOTS_MAX)
            self._window = {h: s for h, s in self._window.items() if s >= oldest}
            for missing in range(max(oldest, self._window_slot + 1), slot + 1):
                self._window[self.blockhash_of(missing)] = missing
            self._window_slot = slot
        return blockhash in self._window

    # --- reading ---

    def account(self, address: Pubkey, commitment: str = "processed") -> Account | None:
        """Return an account as a reader at this commitment sees it, or None."""
        self._forget_final()
        seen = self.slot_at(commitment)
        for slot, before in self._not_final:
            if slot > seen and address in before:
                return before[address]
        return self._svm.get_account(address)

    def token_accounts(self) -> Iterator[tuple[Pubkey, Account]]:
        """Walk all accounts of both token programs: mints and token accounts, newest state."""
        for program in TOKEN_PROGRAM_IDS:
            yield from self._svm.get_program_accounts(program)

    def system_accounts(self) -> list[tuple[Pubkey, Account]]:
        """Return all accounts the System program owns, newest state."""
        owned: list[tuple[Pubkey, Account]] = self._svm.get_program_accounts(SYSTEM_PROGRAM_ID)
        return owned

    def rent_exempt_lamports(self, data_bytes: int) -> int:
        """Return the smallest balance that keeps an account of this size for ever."""
        return int(self._svm.minimum_balance_for_rent_exemption(data_bytes))

    def landed(self, signature: str) -> Landed | None:
        """Return a landed transaction by its signature."""
        query = f"SELECT {_LANDED_COLUMNS} FROM landed WHERE signature = ?"
        row = self._database.execute(query, (signature,)).fetchone()
        return _landed(row) if row else None

    def landed_naming(
        self, address: Pubkey, before: int, after: int, slot_max: int, limit: int
    ) -> list[Landed]:
        """Return landed transactions that name an address, newest first, between two positions."""
        query = f"""SELECT {_LANDED_COLUMNS} FROM mention JOIN landed USING (position)
          WHERE address = ? AND position < ? AND position > ? AND slot <= ?
          ORDER BY position DESC LIMIT ?"""
        values = (bytes(address), before, after, slot_max, limit)
        return [_landed(row) for row in self._database.execute(query, values)]

    def landed_count(self) -> int:
        """Count the transactions that ever landed."""
        return self._one("SELECT count(*) FROM landed")

    def memo_counts(self) -> dict[str, int]:
        """Count the successful transactions per memo: a judge of exactly-once needs no more."""
        query = (
            "SELECT memo, count(*) FROM landed WHERE err IS NULL AND memo IS NOT NULL GROUP BY 1"
        )
        return dict(self._database.execute(query))

    def movements(self) -> list[tuple[str, int, str]]:
        """Return (signature, slot, movement) of every transfer that a judge asks for, in order."""
        query = """SELECT signature, slot, movement FROM movement JOIN landed USING (position)
          ORDER BY position, movement.rowid"""
        return list(self._database.execute(query))

    # --- executing ---

    def simulate(
        self, transaction: VersionedTransaction, verify: bool = True, any_blockhash: bool = False
    ) -> Verdict:
        """Run a transaction without keeping anything."""
        refusal = self._refusal(transaction, any_blockhash)
        if refusal is not None:
            return refusal
        self._svm.with_sigverify(verify)
        self._set_clock()
        return _verdict(self._svm.simulate_transaction(transaction))

    def execute(self, transaction: VersionedTransaction) -> Verdict:
        """Run a transaction for good; when it lands, it is in the file before this returns."""
        refusal = self._refusal(transaction, any_blockhash=False)
        if refusal is not None:
            return refusal
        self._svm.with_sigverify(True)
        self._set_clock()
        keys, loaded = self._account_keys(transaction)
        before = {key: self._svm.get_account(key) for key in keys}
        result = self._svm.send_transaction(transaction)
        verdict = _verdict(result)
        if verdict.landed:
            after = {key: self._svm.get_account(key) for key in keys}
            self._keep(transaction, result, verdict, keys, loaded, before, after)
        return verdict

    def airdrop(self, to: Pubkey, lamports: int) -> str:
        """Send faucet lamports by an ordinary transaction and return its signature.

        The memo carries a running number: without it two equal airdrops in one slot would be one.
        """
        payer = self.faucet.pubkey()
        memo = f"airdrop {self.landed_count()}".encode()
        instructions = [
            transfer(TransferParams(from_pubkey=payer, to_pubkey=to, lamports=lamports)),
            Instruction(MEMO_PROGRAM_ID, memo, [AccountMeta(payer, True, True)]),
        ]
        blockhash = Hash.from_string(self.blockhash_of(self.slot))
        message = MessageV0.try_compile(payer, instructions, [], blockhash)
        transaction = VersionedTransaction(message, [self.faucet])
        verdict = self.execute(transaction)
        if verdict.err is not None:
            raise ValueError(f"the faucet's transfer failed: {json.dumps(verdict.err)}")
        return str(transaction.signatures[0])

    def _refusal(self, transaction: VersionedTransaction, any_blockhash: bool) -> Verdict | None:
        """Refuse what a validator's status cache and blockhash queue refuse before execution."""
        err = None
        if self.landed(str(transaction.signatures[0])) is not None:
            err = "AlreadyProcessed"
        elif not any_blockhash and not self.blockhash_is_live(
            str(transaction.message.recent_blockhash)
        ):
            err = "BlockhashNotFound"
        return Verdict(err, False, [], 0, 0, None, {}) if err else None

    def _set_clock(self) -> None:
        slot, now = self.slot, int(self._clock())
        epoch = slot // SLOTS_PER_EPOCH
        epoch_start = now - (slot % SLOTS_PER_EPOCH) * SLOT_MILLISECONDS // 1000
        self._svm.set_clock(Clock(slot, epoch_start, epoch, epoch + 1, now))

    def _account_keys(
        self, transaction: VersionedTransaction
    ) -> tuple[list[Pubkey], tuple[list[Pubkey], list[Pubkey]]]:
        """Return every account of a transaction in index order, and the ones from lookup tables."""
        message = transaction.message
        writable: list[Pubkey] = []
        readonly: list[Pubkey] = []
        for lookup in getattr(message, "address_table_lookups", []):
            table = self._svm.get_account(lookup.account_key)
            # An address lookup table is a 56-byte header and then 32 bytes per address.
            raw = table.data[56:] if table is not None else b""
            stored = [Pubkey(raw[at : at + 32]) for at in range(0, len(raw) - 31, 32)]
            writable += [stored[i] for i in lookup.writable_indexes if i < len(stored)]
            readonly += [stored[i] for i in lookup.readonly_indexes if i < len(stored)]
        return list(message.account_keys) + writable + readonly, (writable, readonly)

    def _keep(
        self,
        transaction: VersionedTransaction,
        result: TransactionMetadata | FailedTransactionMetadata,
        verdict: Verdict,
        keys: list[Pubkey],
        loaded: tuple[list[Pubkey], list[Pubkey]],
        before: dict[Pubkey, Account | None],
        after: dict[Pubkey, Account | None],
    ) -> None:
        """Write a landed transaction and only the accounts it changed, in one file transaction."""
        slot = self.slot
        changed = [key for key in before if before[key] != after[key]]
        execution = result.meta() if isinstance(result, FailedTransactionMetadata) else result
        meta = execution_meta(
            execution, verdict.err, keys, loaded, before, after, self._svm.get_account
        )
        write = self._database.execute
        with self._database:
            write("BEGIN IMMEDIATE")
            for key in changed:
                account = after[key]
                if account is None or account.lamports == 0:
                    write("DELETE FROM account WHERE address = ?", (bytes(key),))
                else:
                    write(
                        "INSERT OR REPLACE INTO account VALUES (?, ?)", (bytes(key), bytes(account))
                    )
            position = write(
                f"INSERT INTO landed ({_LANDED_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                (
                    str(transaction.signatures[0]),
                    slot,
                    int(self._clock()),
                    None if verdict.err is None else json.dumps(verdict.err),
                    memo_of(transaction),
                    bytes(transaction),
                    json.dumps(meta),
                ),
            ).lastrowid
            for key in dict.fromkeys(keys):
                write("INSERT INTO mention VALUES (?, ?)", (bytes(key), position))
            if verdict.err is None:
                for movement in movements_of(transaction, keys, before, after):
                    write("INSERT INTO movement VALUES (?, ?)", (position, movement.as_json()))
        self._forget_final()
        self._not_final.append((slot, {key: before[key] for key in changed}))

    def _forget_final(self) -> None:
        final = self.slot_at("finalized")
        while self._not_final and self._not_final[0][0] <= final:
            self._not_final.popleft()

    def _one(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])


def _landed(row: tuple[Any, ...]) -> Landed:
    position, signature, slot, block_time, err, memo, wire, meta = row
    return Landed(
        position,
        signature,
        slot,
        block_time,
        None if err is None else json.loads(err),
        memo,
        wire,
        json.loads(meta),
    )


def _verdict(
    result: TransactionMetadata | FailedTransactionMetadata | SimulatedTransactionInfo,
) -> Verdict:
    err = None
    if isinstance(result, FailedTransactionMetadata):
        err = json.loads(result.to_json())["err"]
    meta = result if isinstance(result, TransactionMetadata) else result.meta()
    post_accounts: dict[Pubkey, Account] = {}
    if isinstance(result, SimulatedTransactionInfo):
        post_accounts = dict(result.post_accounts())
    returned = meta.return_data()
    # LiteSVM charges a fee exactly when a transaction lands, failed or not.
    return Verdict(
        err=err,
        landed=err is None or meta.fee() > 0,
        logs=meta.logs(),
        units_consumed=meta.compute_units_consumed(),
        fee=meta.fee(),
        return_data={"programId": str(returned.program_id), "data": bytes(returned.data)}
        if returned.data
        else None,
        post_accounts=post_accounts,
    )
