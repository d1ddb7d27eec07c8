"""`python -m smartpay_router.simulate`: runs a policy through a world; one JSON line last.

Anyone can try a policy on seeds that nobody has seen, or in a world of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from smartpay_router.simulation.runner import Maker, Run, run, summary
from smartpay_router.simulation.stream import draw
from smartpay_router.simulation.world import PAYMENTS_MAX, World, WorldError, load, packaged

SEEDS_MAX = 10_000
"""More seeds than any interval needs; a typing mistake should not run for days."""


def simulate(
    name: str,
    world: World,
    policy: str,
    seeds: Sequence[int],
    makers: Mapping[str, Maker],
    payments: int = PAYMENTS_MAX,
) -> dict[str, Any]:
    """Runs a policy once per seed and sums up; tells its progress on standard error.

    Args:
        name: how the summary calls the world.
        world: what to draw streams from.
        policy: by its name in `makers`.
        seeds: one run each.
        makers: the policies.
        payments: where to stop before the stream ends.
    """
    runs: list[Run] = []
    for seed in seeds:
        stream = draw(world, seed).until(payments)
        runs.append(
            run(stream, makers[policy](world, stream, seed), delay_payments=world.delays.payments)
        )
        sys.stderr.write(f"{name} {policy} seed {seed}: regret {runs[-1].regret:.1f}\n")
        sys.stderr.flush()
    return summary(name, world, policy, seeds, runs)


def seeds_of(text: str) -> list[int]:
    """Reads "7" or "101-120".

    Raises:
        ValueError: when it is neither.
    """
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high < low + SEEDS_MAX:
        raise ValueError("seeds ascend")
    return list(range(low, high + 1))


def main(arguments: Sequence[str] | None, makers: Mapping[str, Maker]) -> None:
    """Reads the command line, runs, prints; ends with 2 and a sentence when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m smartpay_router.simulate", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--world", required=True, help=f"path of a YAML file, or one of {', '.join(packaged())}"
    )
    parser.add_argument("--seeds", required=True, help="for instance 101-120")
    parser.add_argument("--policy", required=True, choices=sorted(makers))
    parser.add_argument("--payments", type=int, default=PAYMENTS_MAX, help="stop after so many")
    chosen = parser.parse_args(arguments)
    try:
        world = load(chosen.world)
    except WorldError as error:
        parser.error(str(error))
    try:
        seeds = seeds_of(chosen.seeds)
    except ValueError:
        parser.error(f"--seeds: {chosen.seeds!r} is no range; write 101-120, or one number")
    if chosen.payments < 1:
        parser.error("--payments: must be at least 1; leave it out to run the whole stream")
    told = simulate(chosen.world, world, chosen.policy, seeds, makers, chosen.payments)
    print(json.dumps(told))


if __name__ == "__main__":
    # Only here: a rival's environment runs the same command and lacks what ours needs.
    from smartpay_router.simulation.policies import POLICIES

    main(sys.argv[1:], POLICIES)
