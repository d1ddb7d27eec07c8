"""Scores every payment for fraud, with reasons, before it is charged."""

import os

# One thread per numeric engine: on shared cores, oversubscription made a score 25 times slower.
# The libraries read these once, when they are loaded, so they are set before NumPy is.
for _engine in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_engine, "1")
