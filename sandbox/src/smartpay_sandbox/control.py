"""The control API and the app that holds all simulators: health, dumps, faults, accounts, reset."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from smartpay_sandbox.simulator import Simulator
from smartpay_sandbox.stripe_api import StripeSimulator


def sandbox_app(simulators: Mapping[str, Simulator]) -> ASGIApp:
    """Mount each simulator under its name and the control API under `/control`."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for simulator in simulators.values():
                await simulator.start()
                stack.push_async_callback(simulator.stop)
            yield

    mounted = Starlette(
        lifespan=lifespan,
        routes=[
            Mount("/control", routes=_control_routes(simulators)),
            *(Mount(f"/{name}", app=simulator.app) for name, simulator in simulators.items()),
        ],
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # A mount answers its bare name by a redirect, which JSON-RPC clients do not follow.
        if scope["type"] == "http" and scope["path"][1:] in simulators:
            scope = {**scope, "path": scope["path"] + "/"}
        await mounted(scope, receive, send)

    return app


def _control_routes(simulators: Mapping[str, Simulator]) -> list[Route]:
    def named(request: Request) -> Simulator | None:
        return simulators.get(request.path_params["name"])

    async def health(_: Request) -> Response:
        """Answer once every simulator has loaded its state, since lifespan comes first."""
        return JSONResponse({"status": "ok", "simulators": sorted(simulators)})

    async def dump(request: Request) -> Response:
        simulator = named(request)
        return _unknown(simulators) if simulator is None else JSONResponse(simulator.dump())

    async def set_faults(request: Request) -> Response:
        simulator = named(request)
        if simulator is None:
            return _unknown(simulators)
        body = await _json(request)
        if not isinstance(body, dict) or not isinstance(body.get("rules"), list):
            return _bad('send JSON like {"rules": [{"kind": "slow", "delay_ms": 500}]}')
        try:
            simulator.set_faults(body["rules"])
        except ValueError as refusal:
            return _bad(str(refusal))
        return JSONResponse({"rules": len(body["rules"])})

    async def clear_faults(request: Request) -> Response:
        simulator = named(request)
        if simulator is None:
            return _unknown(simulators)
        simulator.clear_faults()
        return Response(status_code=204)

    async def add_stripe_account(request: Request) -> Response:
        simulator = simulators.get("stripe")
        body = await _json(request)
        if not isinstance(simulator, StripeSimulator):
            return _unknown(simulators)
        if not isinstance(body, dict) or not all(
            isinstance(body.get(name), str) for name in ("id", "secret_key")
        ):
            return _bad('send JSON like {"id": "acct_1", "secret_key": "sk_test_1"}')
        try:
            simulator.add_account(body["id"], body["secret_key"])
        except ValueError as refusal:
            return _bad(str(refusal))
        return JSONResponse({"id": body["id"]}, status_code=201)

    async def reset(_: Request) -> Response:
        """Behave again and forget the Stripe objects; a chain cannot forget, so it stays."""
        for simulator in simulators.values():
            simulator.clear_faults()
            if isinstance(simulator, StripeSimulator):
                simulator.reset()
        return Response(status_code=204)

    return [
        Route("/health", health),
        Route("/reset", reset, methods=["POST"]),
        Route("/stripe/accounts", add_stripe_account, methods=["POST"]),
        Route("/{name}/dump", dump),
        Route("/{name}/faults", set_faults, methods=["PUT"]),
        Route("/{name}/faults", clear_faults, methods=["DELETE"]),
    ]


async def _json(request: Request) -> object:
    try:
        body: object = await request.json()
        return body
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def _bad(message: str) -> Response:
    return JSONResponse({"error": message}, status_code=400)


def _unknown(simulators: Mapping[str, Simulator]) -> Response:
    message = f"no such simulator; this sandbox runs {', '.join(sorted(simulators))}"
    return JSONResponse({"error": message}, status_code=404)
