"""The bench of decisions: all ways decide the same thing, and replicas add up."""

from __future__ import annotations

import numpy as np

from smartpay_bench.router_decisions import ARMS, BATCH, Deciders, figures, merge_error


def test_one_by_one_and_in_a_batch_the_same_accounts_are_chosen() -> None:
    alone, together = Deciders(), Deciders()
    assert [alone.decide() for _ in range(BATCH)] == together.decide_batch().tolist()


def test_river_has_learned_what_ours_has() -> None:
    deciders = Deciders()
    known = deciders.ours.totals().models
    for arm in ARMS:
        regression = deciders.river._bayes_lin_regs[arm.account]
        order = [regression._idx[name] for name in deciders.schema.features]
        seen = regression._ss_arr[np.ix_(order, order)] - np.eye(len(order))
        fading = known[arm.model].values[:, :-1] / known[arm.model].values[0, 0]
        # Ours fades a little over the bench's hour, so the shares agree and not the sums.
        assert np.allclose(seen / seen[0, 0], fading, atol=0.01)


def test_every_figure_is_there() -> None:
    told = figures(quick=True)
    assert {"decide_vs_river", "batch_vs_river", "merge_error"} <= told.keys()
    assert all(value > 0 for value in told.values())


def test_replicas_add_up_to_the_twelfth_digit() -> None:
    assert merge_error(merges=3) <= 1e-12
