"""A service that would run on many threads does not start."""

import os
import subprocess
import sys

import pytest

from smartpay_fraud.threads import VARIABLES, ThreadsError, one_thread_each


def test_what_is_not_set_becomes_one() -> None:
    environment = {"OMP_NUM_THREADS": "1", "PATH": "/bin"}
    one_thread_each(environment)
    assert environment == {**dict.fromkeys(VARIABLES, "1"), "PATH": "/bin"}


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("number", ["2", "0", "", "many"])
def test_another_number_is_refused_with_the_remedy(name: str, number: str) -> None:
    with pytest.raises(ThreadsError, match=f"{name}: .*unset it"):
        one_thread_each({name: number})


def test_the_command_exits_as_misconfigured_before_anything_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smartpay_fraud"],
        env={**os.environ, "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == os.EX_CONFIG
    assert "OMP_NUM_THREADS" in done.stderr
