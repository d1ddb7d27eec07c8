"""Prints the settings of the mesh that `make up` runs, for a shell to evaluate."""

import json
import shlex
import sys
from pathlib import Path


def settings(run: Path) -> dict[str, str]:
    """Reads what a client of the demo merchant needs out of a run folder."""
    endpoints = json.loads((run / "endpoints.json").read_text())
    demo = json.loads((run / "secrets" / "clients.json").read_text())["clients"]["demo"]
    return {
        "SMARTPAY_URL": endpoints["rest"],
        "SMARTPAY_TOKEN_URL": endpoints["cognito"] + "/oauth2/token",
        "SMARTPAY_CLIENT_ID": demo["client_id"],
        "SMARTPAY_CLIENT_SECRET": demo["client_secret"],
        "SMARTPAY_CA_FILE": endpoints["ca"],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".run")
    for name, value in settings(folder).items():
        print(f"export {name}={shlex.quote(value)}")
