"""How ministack is run: loopback only, one port, its state on disk, no containers."""

from __future__ import annotations

import os
from pathlib import Path

from smartpay_sandbox.ports import LOOPBACK
from smartpay_sandbox.run_folder import REPOSITORY, RunFolder

HEALTH_PATH = "/_ministack/health"
REGION = "us-east-1"


def python() -> Path:
    """The interpreter of ministack's own environment."""
    return REPOSITORY / ".venv-aws" / "bin" / "python"


def command() -> tuple[str, ...]:
    """The command line; everything else is in the environment."""
    return (str(python()), "-m", "ministack")


def state_of(run: RunFolder) -> Path:
    """The folder of its state."""
    return run.state / "aws"


def environment(run: RunFolder, port: int) -> dict[str, str]:
    """All of its environment, for one port."""
    state = state_of(run)
    (state / "tmp").mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.defpath,
        "HOME": str(state),
        "TMPDIR": str(state / "tmp"),
        "BIND_HOST": LOOPBACK,
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state),
        "S3_DATA_DIR": str(state / "s3"),
        # Otherwise it opens MQTT on all addresses, and SFTP once asked.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # Where there is a Docker daemon it would tidy up containers; it has no business there.
        "DOCKER_HOST": f"unix://{state}/no-docker.sock",
        "MINISTACK_WORKER_THREADS": "8",
        "LOG_LEVEL": "WARNING",
    }
