"""The same model as a BentoML service with adaptive batching; runs in the rivals' environment."""

import os

import bentoml
import numpy as np

from smartpay_bench.fraud_rivals import BATCH_ROWS_MAX, session_of


@bentoml.service(workers=1, traffic={"timeout": 30, "concurrency": 256})
class Trees:
    """One worker, one thread, batches as large as ours."""

    def __init__(self) -> None:
        self._margins = session_of(os.environ["BENCH_MODEL"])

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True, max_batch_size=BATCH_ROWS_MAX, max_latency_ms=1_000
    )
    def score(self, rows: np.ndarray) -> np.ndarray:
        """Margins, float32 [n], of rows, [n, columns]."""
        return self._margins(rows.astype(np.float32))[:, 0]
