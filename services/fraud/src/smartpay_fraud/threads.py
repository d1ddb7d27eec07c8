"""One thread per engine: on shared cores a second one makes every score slower, not faster.

Measured: two threads instead of one on two busy cores took scoring from 560 rows a second to 22.
"""

from __future__ import annotations

from collections.abc import MutableMapping

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What NumPy and its libraries read, once, when they are imported."""


class ThreadsError(Exception):
    """The environment asks for more than one thread; the text names the variable."""


def one_thread_each(environment: MutableMapping[str, str]) -> None:
    """Sets what is not set; call it before NumPy is imported.

    Raises:
        ThreadsError: a variable asks for another number.
    """
    for name in VARIABLES:
        if environment.setdefault(name, "1") != "1":
            raise ThreadsError(
                f"{name}: it must be 1, or scoring gets slower under load; "
                "unset it and scale by replicas instead."
            )
