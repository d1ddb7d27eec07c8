"""The Solana simulator, seen through the unmodified `solana` client."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.jsonrpc import JsonRpcRequest, SolanaJsonRpcError
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.system_program import (
    CreateAccountParams,
    CreateAccountWithSeedParams,
    TransferParams,
    create_account,
    create_account_with_seed,
    transfer,
)
from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    create_idempotent_associated_token_account,
    get_associated_token_address,
    initialize_mint2,
    mint_to_checked,
)
from spl.token.models import InitializeMint2Params, MintToCheckedParams

from smartpay_sandbox.listener import listening
from smartpay_sandbox.solana import SolanaSimulator
from smartpay_sandbox.solana_faults import FaultRuleError, Faults
from smartpay_sandbox.solana_ledger import SLOT_MILLISECONDS
from smartpay_sandbox.solana_views import Json, base58, base58_bytes

SOL = 10**9
PAYER = Keypair.from_seed(bytes([1]) * 32)
MINT = Keypair.from_seed(bytes([2]) * 32)
WALLET = Keypair.from_seed(bytes([3]) * 32).pubkey()
RECEIPT_LAMPORTS = 890_880


class FakeClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_slots(self, count: int) -> None:
        self.now += count * SLOT_MILLISECONDS / 1000


class Node:
    """One running simulator and an honest client of it."""

    def __init__(self, simulator: SolanaSimulator, clock: FakeClock, client: AsyncClient) -> None:
        self.simulator, self.clock, self.client = simulator, clock, client

    async def call(self, method: str, *params: Json) -> Json:
        request = JsonRpcRequest(method=method, params=list(params))
        result: Json = await self.client.send_rpc_request(request, object)
        return result

    async def value(self, method: str, *params: Json) -> Json:
        return (await self.call(method, *params))["value"]

    async def blockhash(self) -> Hash:
        options = {"commitment": "processed"}
        return Hash.from_string((await self.value("getLatestBlockhash", options))["blockhash"])

    async def signed(self, *instructions: Instruction, signers: list[Keypair]) -> str:
        message = MessageV0.try_compile(
            signers[0].pubkey(), list(instructions), [], await self.blockhash()
        )
        return wire(VersionedTransaction(message, signers))

    async def send(self, *instructions: Instruction, signers: list[Keypair] | None = None) -> str:
        text = await self.signed(*instructions, signers=signers or [PAYER])
        signature: str = await self.call("sendTransaction", text, {"encoding": "base64"})
        return signature

    async def funded(self) -> None:
        await self.call("requestAirdrop", str(PAYER.pubkey()), 10 * SOL)

    async def with_mint(self) -> None:
        await self.funded()
        await self.send(*mint_creation(), signers=[PAYER, MINT])


def wire(transaction: VersionedTransaction) -> str:
    return base64.b64encode(bytes(transaction)).decode()


def mint_creation() -> list[Instruction]:
    return [
        create_account(
            CreateAccountParams(
                from_pubkey=PAYER.pubkey(),
                to_pubkey=MINT.pubkey(),
                lamports=1_461_600,
                space=MINT_LEN,
                owner=TOKEN_PROGRAM_ID,
            )
        ),
        initialize_mint2(
            InitializeMint2Params(
                program_id=TOKEN_PROGRAM_ID,
                mint=MINT.pubkey(),
                decimals=6,
                mint_authority=PAYER.pubkey(),
                freeze_authority=None,
            )
        ),
    ]


def reward(seed: str, amount: int = 20_000_000, wallet: Pubkey = WALLET) -> list[Instruction]:
    """A receipt, the wallet's token account, the mint and a memo, as a rewards service sends."""
    payer = PAYER.pubkey()
    return [
        create_account_with_seed(
            CreateAccountWithSeedParams(
                from_pubkey=payer,
                to_pubkey=Pubkey.create_with_seed(payer, seed, SYSTEM_PROGRAM_ID),
                base=payer,
                seed=seed,
                lamports=RECEIPT_LAMPORTS,
                space=0,
                owner=SYSTEM_PROGRAM_ID,
            )
        ),
        create_idempotent_associated_token_account(payer, wallet, MINT.pubkey()),
        mint_to_checked(
            MintToCheckedParams(
                program_id=TOKEN_PROGRAM_ID,
                mint=MINT.pubkey(),
                dest=get_associated_token_address(wallet, MINT.pubkey()),
                mint_authority=payer,
                amount=amount,
                decimals=6,
                signers=[],
            )
        ),
        Instruction(MEMO_PROGRAM_ID, seed.encode(), [AccountMeta(payer, True, True)]),
    ]


@asynccontextmanager
async def running(state_dir: Path, clock: FakeClock) -> AsyncIterator[Node]:
    simulator = SolanaSimulator(state_dir, clock)
    await simulator.start()
    try:
        async with (
            listening(simulator.app) as url,
            AsyncClient(url, timeout=5, http2=False, max_transport_retries=0) as client,
        ):
            yield Node(simulator, clock, client)
    finally:
        await simulator.stop()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running(tmp_path, FakeClock()) as started:
        yield started


@dataclass(frozen=True)
class Refusal:
    code: int
    message: str
    data: Json


async def refusal(node: Node, method: str, *params: Json) -> Refusal:
    with pytest.raises(SolanaJsonRpcError) as caught:
        await node.call(method, *params)
    return Refusal(caught.value.code, caught.value.message, caught.value.data)


async def test_a_new_node_is_healthy_and_says_what_it_is(node: Node) -> None:
    assert await node.call("getHealth") == "ok"
    assert "litesvm" in (await node.call("getVersion"))["solana-core"]
    assert len(base58_bytes(await node.call("getGenesisHash"))) == 32
    assert await node.call("getMinimumBalanceForRentExemption", 0) == RECEIPT_LAMPORTS


async def test_two_equal_airdrops_in_one_slot_both_arrive(node: Node) -> None:
    first = await node.call("requestAirdrop", str(WALLET), SOL)
    second = await node.call("requestAirdrop", str(WALLET), SOL)
    assert first != second
    options = {"commitment": "confirmed"}
    assert await node.value("getBalance", str(WALLET), options) == 2 * SOL


async def test_a_transfer_is_confirmed_at_once_and_final_two_slots_later(node: Node) -> None:
    await node.funded()
    signature = await node.send(
        transfer(TransferParams(from_pubkey=PAYER.pubkey(), to_pubkey=WALLET, lamports=SOL))
    )
    [status] = await node.value("getSignatureStatuses", [signature])
    assert (status["confirmationStatus"], status["err"]) == ("confirmed", None)
    assert await node.value("getBalance", str(WALLET)) == 0
    assert await node.value("getBalance", str(WALLET), {"commitment": "confirmed"}) == SOL
    assert await node.call("getTransaction", signature) is None

    node.clock.pass_slots(2)
    [status] = await node.value("getSignatureStatuses", [signature])
    assert (status["confirmationStatus"], status["confirmations"]) == ("finalized", None)
    assert await node.value("getBalance", str(WALLET)) == SOL


async def test_a_receipt_lets_a_reward_be_minted_once_only(node: Node) -> None:
    await node.with_mint()
    await node.send(*reward("pay-1"))
    node.clock.pass_slots(1)
    text = await node.signed(*reward("pay-1"), signers=[PAYER])
    error = await refusal(node, "sendTransaction", text, {"encoding": "base64"})
    assert error.code == -32002
    assert error.message.endswith("Error processing Instruction 0: custom program error: 0x0")
    assert error.data["err"] == {"InstructionError": [0, {"Custom": 0}]}
    supply = await node.value("getTokenSupply", str(MINT.pubkey()), {"commitment": "confirmed"})
    assert supply["amount"] == "20000000"
    assert supply["uiAmountString"] == "20"


async def test_a_failed_transaction_sent_without_preflight_lands_with_its_error(node: Node) -> None:
    await node.with_mint()
    await node.send(*reward("pay-1"))
    node.clock.pass_slots(1)
    text = await node.signed(*reward("pay-1"), signers=[PAYER])
    options = {"encoding": "base64", "skipPreflight": True}
    signature = await node.call("sendTransaction", text, options)
    [status] = await node.value("getSignatureStatuses", [signature])
    assert status["err"] == {"InstructionError": [0, {"Custom": 0}]}
    assert node.simulator.dump()["mints"][str(MINT.pubkey())]["supply"] == "20000000"


async def test_the_same_bytes_again_are_refused_and_without_preflight_answered_alike(
    node: Node,
) -> None:
    await node.with_mint()
    text = await node.signed(*reward("pay-1"), signers=[PAYER])
    first = await node.call("sendTransaction", text, {"encoding": "base64"})
    error = await refusal(node, "sendTransaction", text, {"encoding": "base64"})
    assert error.message.endswith("This transaction has already been processed")
    assert error.data["err"] == "AlreadyProcessed"
    options = {"encoding": "base64", "skipPreflight": True}
    assert await node.call("sendTransaction", text, options) == first
    assert node.simulator.dump()["memos"]["pay-1"] == 1


async def test_a_blockhash_lives_150_slots_and_not_151(node: Node) -> None:
    await node.funded()
    pay = transfer(TransferParams(from_pubkey=PAYER.pubkey(), to_pubkey=WALLET, lamports=SOL))
    latest = await node.value("getLatestBlockhash", {"commitment": "processed"})
    text = await node.signed(pay, signers=[PAYER])
    height = await node.call("getBlockHeight", {"commitment": "processed"})
    assert latest["lastValidBlockHeight"] == height + 150

    node.clock.pass_slots(150)
    assert await node.value("isBlockhashValid", latest["blockhash"]) is True
    simulated = await node.value("simulateTransaction", text, {"encoding": "base64"})
    assert simulated["err"] is None

    node.clock.pass_slots(1)
    assert await node.value("isBlockhashValid", latest["blockhash"]) is False
    error = await refusal(node, "sendTransaction", text, {"encoding": "base64"})
    assert (error.code, error.data["err"]) == (-32002, "BlockhashNotFound")


async def test_slots_never_go_back_when_the_machine_clock_does(node: Node) -> None:
    node.clock.pass_slots(10)
    before = await node.call("getSlot", {"commitment": "processed"})
    node.clock.pass_slots(-5)
    assert await node.call("getSlot", {"commitment": "processed"}) == before


async def test_a_simulation_leaves_nothing_behind(node: Node) -> None:
    await node.with_mint()
    before = node.simulator.dump()
    text = await node.signed(*reward("pay-1"), signers=[PAYER])
    token_account = str(get_associated_token_address(WALLET, MINT.pubkey()))
    options = {
        "encoding": "base64",
        "replaceRecentBlockhash": True,
        "accounts": {"addresses": [token_account], "encoding": "base64"},
    }
    seen = await node.value("simulateTransaction", text, options)
    assert seen["err"] is None
    assert seen["unitsConsumed"] > 0
    assert seen["accounts"][0]["owner"] == str(TOKEN_PROGRAM_ID)
    assert seen["replacementBlockhash"]["lastValidBlockHeight"] == 150 + 2
    assert node.simulator.dump() == before


async def test_history_names_every_account_newest_first_in_pages(node: Node) -> None:
    await node.with_mint()
    sent = []
    for seed in ("pay-1", "pay-2", "pay-3"):
        sent.append(await node.send(*reward(seed)))
    node.clock.pass_slots(2)
    account = str(get_associated_token_address(WALLET, MINT.pubkey()))
    newest = await node.call("getSignaturesForAddress", account, {"limit": 2})
    assert [row["signature"] for row in newest] == [sent[2], sent[1]]
    assert newest[0]["memo"] == "[5] pay-3"
    older = await node.call("getSignaturesForAddress", account, {"before": sent[1]})
    assert [row["signature"] for row in older] == [sent[0]]
    newer = await node.call("getSignaturesForAddress", account, {"until": sent[1]})
    assert [row["signature"] for row in newer] == [sent[2]]
    receipt = Pubkey.create_with_seed(PAYER.pubkey(), "pay-2", SYSTEM_PROGRAM_ID)
    [found] = await node.call("getSignaturesForAddress", str(receipt))
    assert found["signature"] == sent[1]


async def test_a_transaction_can_be_read_back_with_its_balances(node: Node) -> None:
    await node.with_mint()
    signature = await node.send(*reward("pay-1"))
    node.clock.pass_slots(2)
    error = await refusal(node, "getTransaction", signature)
    assert error.code == -32015
    options = {"maxSupportedTransactionVersion": 0, "encoding": "json"}
    seen = await node.call("getTransaction", signature, options)
    keys = seen["transaction"]["message"]["accountKeys"]
    assert seen["version"] == 0
    assert keys[0] == str(PAYER.pubkey())
    assert seen["meta"]["fee"] == 5000
    assert seen["meta"]["preTokenBalances"] == []
    [balance] = seen["meta"]["postTokenBalances"]
    assert balance["owner"] == str(WALLET)
    assert balance["uiTokenAmount"]["amount"] == "20000000"
    spent = seen["meta"]["preBalances"][0] - seen["meta"]["postBalances"][0]
    assert spent == 5000 + RECEIPT_LAMPORTS + 2_039_280
    options["encoding"] = "jsonParsed"
    parsed = await node.call("getTransaction", signature, options)
    first = parsed["transaction"]["message"]["accountKeys"][0]
    assert (first["signer"], first["writable"]) == (True, True)
    options["encoding"] = "base64"
    raw = await node.call("getTransaction", signature, options)
    body = base64.b64decode(raw["transaction"][0])
    assert str(VersionedTransaction.from_bytes(body).signatures[0]) == signature


async def test_a_legacy_transaction_needs_no_version_option(node: Node) -> None:
    await node.funded()
    pay = transfer(TransferParams(from_pubkey=PAYER.pubkey(), to_pubkey=WALLET, lamports=SOL))
    message = Message.new_with_blockhash([pay], PAYER.pubkey(), await node.blockhash())
    text = wire(VersionedTransaction(message, [PAYER]))
    signature = await node.call("sendTransaction", text, {"encoding": "base64"})
    node.clock.pass_slots(2)
    seen = await node.call("getTransaction", signature)
    assert seen["transaction"]["message"]["header"]["numRequiredSignatures"] == 1
    fee = await node.value("getFeeForMessage", base64.b64encode(bytes(message)).decode())
    assert fee == 5000


async def test_tokens_are_read_parsed_and_by_owner(node: Node) -> None:
    await node.with_mint()
    await node.send(*reward("pay-1", amount=1_500_000))
    node.clock.pass_slots(2)
    account = str(get_associated_token_address(WALLET, MINT.pubkey()))
    seen = await node.value("getAccountInfo", account, {"encoding": "jsonParsed"})
    assert seen["data"]["parsed"]["type"] == "account"
    assert seen["data"]["parsed"]["info"]["tokenAmount"]["uiAmountString"] == "1.5"
    mint = await node.value("getAccountInfo", str(MINT.pubkey()), {"encoding": "jsonParsed"})
    assert mint["data"]["parsed"]["info"]["mintAuthority"] == str(PAYER.pubkey())
    held = await node.value(
        "getTokenAccountsByOwner", str(WALLET), {"mint": str(MINT.pubkey())}, {}
    )
    assert [row["pubkey"] for row in held] == [account]
    assert (await node.value("getTokenAccountBalance", account))["amount"] == "1500000"
    sliced = {"encoding": "base64", "dataSlice": {"offset": 64, "length": 8}}
    [part, nobody] = await node.value("getMultipleAccounts", [account, str(WALLET)], sliced)
    assert int.from_bytes(base64.b64decode(part["data"][0]), "little") == 1_500_000
    assert nobody is None


async def test_bad_requests_are_refused_as_a_validator_refuses_them(node: Node) -> None:
    await node.funded()
    pay = transfer(TransferParams(from_pubkey=PAYER.pubkey(), to_pubkey=WALLET, lamports=SOL))
    text = await node.signed(pay, signers=[PAYER])
    good = VersionedTransaction.from_bytes(base64.b64decode(text))
    forged = VersionedTransaction.populate(good.message, [WALLET_SIGNATURE])
    base64_text = {"encoding": "base64"}
    cases: list[tuple[str, list[Json], int]] = [
        ("getBlock", [1], -32601),
        ("getBalance", ["not an address"], -32602),
        ("getBalance", [], -32602),
        ("getBalance", [7], -32602),
        ("getBalance", [str(WALLET), {"commitment": "soon"}], -32602),
        ("getTokenSupply", [str(WALLET)], -32602),
        ("requestAirdrop", [str(WALLET), -1], -32602),
        ("sendTransaction", ["%%%", base64_text], -32602),
        ("sendTransaction", [base64.b64encode(b"\x01junk").decode(), base64_text], -32602),
        ("sendTransaction", [base64.b64encode(bytes(1233)).decode(), base64_text], -32602),
        ("sendTransaction", [wire(forged), base64_text], -32003),
    ]
    for method, params, code in cases:
        assert (await refusal(node, method, *params)).code == code, (method, params)
    assert await node.value("getBalance", str(WALLET), {"commitment": "confirmed"}) == 0


WALLET_SIGNATURE = Keypair.from_seed(bytes([3]) * 32).sign_message(b"something else")


async def test_a_restart_keeps_chain_accounts_and_history(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running(tmp_path, clock) as node:
        await node.with_mint()
        text = await node.signed(*reward("pay-1"), signers=[PAYER])
        signature = await node.call("sendTransaction", text, {"encoding": "base64"})
        before = node.simulator.dump()
    async with running(tmp_path, clock) as node:
        assert node.simulator.dump() == before
        [status] = await node.value("getSignatureStatuses", [signature])
        assert status["err"] is None
        error = await refusal(node, "sendTransaction", text, {"encoding": "base64"})
        assert error.data["err"] == "AlreadyProcessed"
        await node.send(*reward("pay-2"))
        assert node.simulator.dump()["mints"][str(MINT.pubkey())]["supply"] == "40000000"


async def test_the_file_holds_every_account_exactly_as_the_running_machine_does(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with running(tmp_path, clock) as node:
        await node.with_mint()
        for index in range(20):
            wallet = Keypair.from_seed(bytes([index, 9]) * 16).pubkey()
            await node.send(*reward(f"pay-{index}", wallet=wallet))
        emptied = Keypair.from_seed(bytes([7]) * 32)
        await node.call("requestAirdrop", str(emptied.pubkey()), SOL)
        everything = TransferParams(
            from_pubkey=emptied.pubkey(), to_pubkey=PAYER.pubkey(), lamports=SOL - 5000
        )
        await node.send(transfer(everything), signers=[emptied])
        addresses = [str(PAYER.pubkey()), str(MINT.pubkey()), str(emptied.pubkey())]
        addresses += [row["address"] for row in node.simulator.dump()["token_accounts"]]
        addresses += node.simulator.dump()["receipts"]
        options = {"commitment": "processed", "encoding": "base64"}
        live = await node.value("getMultipleAccounts", addresses, options)
    async with running(tmp_path, clock) as node:
        assert await node.value("getMultipleAccounts", addresses, options) == live
    assert live[2] is None
    assert len(addresses) == 3 + 20 + 20


NODE_PROCESS = """
import asyncio, sys
from pathlib import Path
from smartpay_sandbox.listener import listening
from smartpay_sandbox.solana import SolanaSimulator

async def main():
    simulator = SolanaSimulator(Path(sys.argv[1]))
    await simulator.start()
    async with listening(simulator.app) as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_node_forgets_nothing_it_has_answered(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def started() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", NODE_PROCESS, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def killed(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    process, url = started()
    try:
        simulator = SolanaSimulator(tmp_path)
        async with AsyncClient(url, timeout=5, http2=False, max_transport_retries=0) as client:
            node = Node(simulator, FakeClock(), client)
            await node.with_mint()
            answered = [await node.send(*reward(f"pay-{index}")) for index in range(10)]
            unheard = [
                asyncio.create_task(node.send(*reward(f"late-{index}"))) for index in range(10)
            ]
            killed(process)
            await asyncio.gather(*unheard, return_exceptions=True)
    finally:
        killed(process)
    process, url = started()
    try:
        async with AsyncClient(url, timeout=5, http2=False, max_transport_retries=0) as client:
            node = Node(simulator, FakeClock(), client)
            statuses = await node.value("getSignatureStatuses", answered)
            assert all(status and status["err"] is None for status in statuses)
            for index in range(10):
                text = await node.signed(*reward(f"pay-{index}"), signers=[PAYER])
                error = await refusal(node, "sendTransaction", text, {"encoding": "base64"})
                assert error.code == -32002
    finally:
        killed(process)


async def test_a_lost_answer_leaves_the_reward_minted(node: Node) -> None:
    await node.with_mint()
    node.simulator.set_faults([{"kind": "drop_after_commit", "times": 1}])
    with pytest.raises(SolanaRpcException):
        await node.send(*reward("pay-1"))
    assert node.simulator.dump()["memos"]["pay-1"] == 1


async def test_an_error_before_executes_nothing_and_an_error_after_everything(node: Node) -> None:
    await node.with_mint()
    node.simulator.set_faults([{"kind": "error_before", "times": 1}])
    with pytest.raises(SolanaRpcException, match="HTTPStatusError"):
        await node.send(*reward("pay-1"))
    assert "pay-1" not in node.simulator.dump()["memos"]
    node.simulator.set_faults([{"kind": "error_after", "times": 1}])
    with pytest.raises(SolanaRpcException, match="HTTPStatusError"):
        await node.send(*reward("pay-1"))
    assert node.simulator.dump()["memos"]["pay-1"] == 1


async def test_a_lagging_node_shows_nothing_that_landed_for_as_many_reads_as_told(
    node: Node,
) -> None:
    await node.with_mint()
    signature = await node.send(*reward("pay-1"))
    account = str(get_associated_token_address(WALLET, MINT.pubkey()))
    node.simulator.set_faults(
        [
            {"kind": "stale_reads", "times": 2},
            {"kind": "stale_reads", "method": "getAccountInfo", "times": 1},
            {"kind": "stale_reads", "method": "getSignaturesForAddress", "times": 1},
        ]
    )
    options = {"commitment": "confirmed"}
    for _ in range(2):
        assert await node.value("getSignatureStatuses", [signature]) == [None]
    assert await node.value("getSignatureStatuses", [signature]) != [None]
    assert await node.value("getAccountInfo", account, options) is None
    assert await node.value("getAccountInfo", account, options) is not None
    assert await node.call("getSignaturesForAddress", account, options) == []
    assert len(await node.call("getSignaturesForAddress", account, options)) == 1


async def test_cleared_faults_leave_an_honest_node(node: Node) -> None:
    node.simulator.set_faults([{"kind": "error_before", "method": "*"}])
    with pytest.raises(SolanaRpcException):
        await node.call("getHealth")
    node.simulator.clear_faults()
    assert await node.call("getHealth") == "ok"


def test_fault_dice_fall_the_same_way_for_the_same_seed() -> None:
    def falls(seed: int) -> list[bool]:
        faults = Faults()
        faults.set([{"kind": "error_after", "probability": 0.3, "seed": seed}])
        return [bool(faults.fall_on("sendTransaction").kinds) for _ in range(200)]

    assert falls(5) == falls(5) != falls(6)
    assert 30 <= sum(falls(5)) <= 90


def test_slow_rules_add_up_on_their_side_of_the_work() -> None:
    faults = Faults()
    faults.set(
        [
            {"kind": "slow", "delay_ms": 30, "method": "getSlot"},
            {"kind": "slow", "delay_ms": 5, "when": "after"},
        ]
    )
    strike = faults.fall_on("getSlot")
    assert (strike.delay_before_ms, strike.delay_after_ms) == (30, 5)
    assert faults.fall_on("getHealth").delay_before_ms == 0


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"kind": "explode"}, "kind"),
        ({"kind": "slow", "delay": 3}, "delay"),
        ({"kind": "slow", "delay_ms": -3}, "delay_ms"),
        ({"kind": "slow", "delay_ms": 3, "when": "never"}, "when"),
        ({"kind": "error_after", "probability": 2}, "probability"),
        ({"kind": "error_after", "times": 0}, "times"),
    ],
)
def test_a_wrong_fault_rule_is_refused_by_field_and_changes_nothing(
    rule: dict[str, Any], field: str
) -> None:
    faults = Faults()
    faults.set([{"kind": "error_before"}])
    with pytest.raises(FaultRuleError, match=rf"rules\[0\]\.{field}: "):
        faults.set([rule])
    assert faults.fall_on("sendTransaction").kinds == {"error_before"}


def test_base58_reads_what_it_writes() -> None:
    for raw in (b"", b"\0\0\1", bytes(32), bytes(range(32))):
        assert base58_bytes(base58(raw)) == raw
    assert base58(bytes(WALLET)) == str(WALLET)
