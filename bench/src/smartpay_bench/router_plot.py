"""Part of `make bench-router`, in the rivals' environment: the regret of each policy, drawn.

python -m smartpay_bench.router_plot FIGURE < {"world": {"policy": [regret, ...]}}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

import matplotlib as mpl  # type: ignore[import-not-found]
import matplotlib.pyplot as plt  # type: ignore[import-not-found]

OURS = {"color": "black", "linewidth": 2.0, "zorder": 3}


def draw(curves: Mapping[str, Mapping[str, Sequence[float]]], payments: int, path: str) -> None:
    """Writes one panel per world: mean regret so far by payments."""
    mpl.rcParams["svg.hashsalt"] = "smartpay"  # the same figures are the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: a third of the size
    figure, panels = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.4), squeeze=False)
    for panel, (world, policies) in zip(panels[0], curves.items(), strict=True):
        for name, curve in policies.items():
            places = [payments * i / (len(curve) - 1) for i in range(len(curve))]
            panel.plot(places, curve, label=name, **(OURS if name == "ours" else {}))
        panel.set_title(world)
        panel.set_xlabel("payments")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("regret, in average payments")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    told = json.load(sys.stdin)
    draw(told["curves"], told["payments"], sys.argv[1])
