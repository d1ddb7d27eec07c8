"""What schemathesis can't know of this API: an idempotency key names one intent."""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis

HEADER = "Idempotency-Key"
_numbers = count()


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    """Gives each case a key of its own, unless a broken or missing key is what it is about."""
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and key.isascii() and key.isprintable() and " " not in key and key:
        case.headers[HEADER] = f"case-{next(_numbers)}-{key}"[:255]
