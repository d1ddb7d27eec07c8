"""Tests that need torch: they run in the training environment by `make test-training`."""

import warnings

with warnings.catch_warnings():
    # torch-geometric imports what torch itself calls deprecated; ours must stay free of warnings.
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn  # noqa: F401
