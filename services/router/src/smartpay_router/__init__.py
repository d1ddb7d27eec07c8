"""Ranks the processor accounts that can charge a payment, and learns from what happened."""

import os

# A decision's matrices are too small to share, and threads that spin for them take the cores from
# everyone else. NumPy's engines read these once, when they are loaded.
for _engine in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_engine, "1")
