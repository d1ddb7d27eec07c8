"""The back office as a caller finds it, over the story's own store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartpay.payments.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    customers_pb2_grpc,
    instruments_pb2_grpc,
    merchants_pb2_grpc,
    payments_pb2,
    payments_pb2_grpc,
    processor_accounts_pb2_grpc,
)
from smartpay_chassis.ids import derive
from smartpay_chassis.testing import (
    DEMO_MERCHANT,
    TEST_MERCHANTS,
    as_merchant,
    as_service,
    error_info,
    serve_for_test,
)
from smartpay_payments.adapters.secret_files import SecretFiles
from smartpay_payments.back_office import BackOffice, open_back_office, serve_back_office
from smartpay_payments.domain.instrument_setup import InstrumentSetup
from smartpay_payments.domain.instruments import SavedToken, SetupOutcome, TokenStatus
from smartpay_payments.domain.merchants import Settings
from smartpay_payments.domain.payment import ActionKind, NextAction
from smartpay_payments.domain.versions import Versions
from smartpay_payments.erasing import Eraser
from smartpay_payments.server.payments import PaymentsServicer


@dataclass
class PretendVault:
    """A processor's customers and their tokens; what it answers follows a script.

    Words, one per call: ok, action, declined, lost_before (nothing happens, no answer),
    lost_after (it happens, no answer).
    """

    script: list[str] = field(default_factory=list)
    payers: dict[str, str] = field(default_factory=dict)
    setups: dict[str, SetupOutcome] = field(default_factory=dict)
    attached: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def _word(self) -> str:
        return self.script.pop(0) if self.script else "ok"

    async def open_payer(self, processor_account_id: str, reference: str) -> str:
        self.opened.append(reference)
        word = self._word()
        if word == "lost_before":
            return ""
        payer = self.payers.setdefault(f"{processor_account_id} {reference}", f"p_{reference}")
        return "" if word == "lost_after" else payer

    async def set_up(
        self, token: SavedToken, payer: str, key: str, *, off_session: bool
    ) -> SetupOutcome:
        assert payer in self.payers.values(), "a token was set up for nobody"
        self.keys.append(key)
        word = self._word()
        silence = SetupOutcome(TokenStatus.SETTING_UP)
        if word == "lost_before":
            return silence
        if key not in self.setups:
            match word:
                case "declined":
                    made = SetupOutcome(TokenStatus.FAILED, f"set_{key}", "stolen_card")
                case "action":
                    action = NextAction(ActionKind.REDIRECT, "https://bank.test/3ds")
                    made = SetupOutcome(TokenStatus.REQUIRES_ACTION, f"set_{key}", "", action)
                case _:
                    made = SetupOutcome(TokenStatus.READY, f"set_{key}")
                    self.attached.add(token.token)
            self.setups[key] = made
        return silence if word == "lost_after" else self.setups[key]

    async def look_at_setup(self, token: SavedToken) -> SetupOutcome:
        if self._word() == "lost_before":
            return SetupOutcome(token.status, next_action=token.next_action)
        return next(s for s in self.setups.values() if s.setup_id == token.setup_id)

    def payer_acts(self) -> None:
        """Lets every payer who was asked pass the challenge."""
        for key, made in self.setups.items():
            if made.status is TokenStatus.REQUIRES_ACTION:
                self.setups[key] = SetupOutcome(TokenStatus.READY, made.setup_id)

    async def detach(self, token: SavedToken) -> bool:
        if self._word() == "lost_before":
            return False
        self.attached.discard(token.token)
        return True

    async def close_payer(self, processor_account_id: str, payer: str) -> bool:
        if self._word() == "lost_before":
            return False
        self.payers = {k: v for k, v in self.payers.items() if v != payer}
        return True


class Bench:
    """What the parts are joined to, in the place of a running service."""

    merchants = TEST_MERCHANTS

    def __init__(self) -> None:
        self.served: list[Any] = []
        self.works: dict[str, Any] = {}

    def serve(self, *servicer: Any) -> None:
        self.served.append(servicer)

    def background(self, name: str, work: Callable[..., Any]) -> None:
        self.works[name] = work


@dataclass
class Office:
    """The stubs of the back office, and what is behind them."""

    story: Any
    parts: BackOffice
    setup: InstrumentSetup
    vault: PretendVault
    eraser: Eraser
    secrets: Path
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.audit = audit_pb2_grpc.AuditServiceStub(self.channel)
        self.customers = customers_pb2_grpc.CustomersServiceStub(self.channel)
        self.instruments = instruments_pb2_grpc.InstrumentsServiceStub(self.channel)
        self.merchants = merchants_pb2_grpc.MerchantsServiceStub(self.channel)
        self.accounts = processor_accounts_pb2_grpc.ProcessorAccountsServiceStub(self.channel)
        self.payments = payments_pb2_grpc.PaymentsServiceStub(self.channel)

    async def ask(
        self, method: Any, request: Any, key: str | None = None, merchant: Any = DEMO_MERCHANT
    ) -> Any:
        return await method(request, metadata=as_merchant(merchant, idempotency_key=key))

    async def headers(
        self, method: Any, request: Any, key: str | None = None, merchant: Any = DEMO_MERCHANT
    ) -> tuple[Any, dict[str, str]]:
        call = method(request, metadata=as_merchant(merchant, idempotency_key=key))
        return await call, dict(await call.initial_metadata())

    async def refused(
        self, method: Any, request: Any, key: str | None = None, merchant: Any = DEMO_MERCHANT
    ) -> dict[str, Any]:
        """Answers how a call was refused."""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.ask(method, request, key, merchant)
        return error_info(refused.value)

    async def records(self, merchant: Any = DEMO_MERCHANT, **filters: Any) -> list[Any]:
        """Answers the audit trail, oldest first."""
        response = await self.ask(
            self.audit.ListAuditRecords,
            audit_pb2.ListAuditRecordsRequest(page_size=200, **filters),
            merchant=merchant,
        )
        return list(response.records)[::-1]

    async def log(self, cursor: str = "") -> list[payments_pb2.WatchResponse]:
        """Reads the log from a cursor until caught up."""
        stream = self.payments.Watch(
            payments_pb2.WatchRequest(cursor=cursor),
            metadata=as_service("rewards", None),
            timeout=20,
        )
        found = []
        async for step in stream:
            found.append(step)
            if step.caught_up:
                break
        stream.cancel()
        return found

    async def tables(self) -> str:
        """Answers everything the store holds, as text."""

        def query(connection: Any) -> str:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return "\n".join(
                str(tuple(row))
                for (name,) in names.fetchall()
                for row in connection.execute(f"SELECT * FROM {name}")
            )

        text: str = await self.story.store.read(query)
        return text


def _unreadable(fields: Any, livemode: bool) -> None:
    raise ValueError("private_key is no key")


@pytest.fixture
async def office(story: Any, tmp_path: Path) -> AsyncIterator[Office]:
    bench, vault = Bench(), PretendVault()
    app: Any = bench
    secrets = tmp_path / "secrets"
    parts = await open_back_office(
        app, story.store, story.payments, SecretFiles(secrets), Settings()
    )
    versions = Versions(
        story.payments, {"stripe": story.processor}, story.clock, story.patience, derive
    )
    readers: Any = {"stripe": lambda fields, _: fields["secret_key"], "amazon_pay": _unreadable}
    setup = serve_back_office(
        app, parts, story.store, versions, {"stripe": vault}, readers, story.clock
    )
    servicer = PaymentsServicer(
        story.saga,
        story.commands,
        story.payments,
        story.advisor,
        story.clock,
        watchers_max=2,
        terms=parts.terms_of_call,
        changed_merchants=parts.directory.changed,
    )
    service = payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"]
    register = payments_pb2_grpc.add_PaymentsServiceServicer_to_server
    async with serve_for_test([*bench.served, (register, servicer, service)]) as channel:
        eraser = bench.works["erasures"].__self__
        yield Office(story, parts, setup, vault, eraser, secrets, channel)
        await servicer.drain()
