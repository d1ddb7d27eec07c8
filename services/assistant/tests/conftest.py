"""What the assistant's tests share: an open index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smartpay_assistant.adapters.sqlite_index import SqlitePaymentIndex


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[SqlitePaymentIndex]:
    opened = await SqlitePaymentIndex.open(tmp_path / "index.db")
    yield opened
    await opened.close()
