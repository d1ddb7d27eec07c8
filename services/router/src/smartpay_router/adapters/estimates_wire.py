"""What is asked of a remote learner and what it answers: small JSON objects.

A question is {"arms": [{"account", "model"}], "values": [...], "at": seconds}; an answer is
{"success": [...], "width": [...], "outcomes": [...]} in the order of the arms. Any container that
speaks this can be the endpoint, whatever learns behind it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from smartpay_router.domain.learner import Arm, Estimates
from smartpay_router.domain.schema import Values

CONTENT_TYPE = "application/json"
VERSION_PREFIX = "policy_version="
"""Begins the custom attributes of both directions: both ends must mean the same by a context."""

ARMS_MAX = 64
"""Far more than the 8 tokens of an instrument: a question that large is no question."""

_SUCCESS_MAX = 2.0  # a linear model may leave 0 to 1, but not by that much


class Question(NamedTuple):
    """What is asked: how each arm would do in this context, at this time in seconds."""

    arms: tuple[Arm, ...]
    values: tuple[float, ...]
    at: float


def question(arms: Sequence[Arm], values: Values, at: float) -> bytes:
    """Spells a question."""
    named = [{"account": arm.account, "model": arm.model} for arm in arms]
    return json.dumps({"arms": named, "values": values.tolist(), "at": at}).encode()


def asked(body: bytes) -> Question:
    """Reads a question; raises ValueError for anything else."""
    said = _object(body)
    try:
        arms = tuple(Arm(_text(arm["account"]), _text(arm["model"])) for arm in said["arms"])
        read = Question(arms, tuple(float(value) for value in said["values"]), float(said["at"]))
    except (KeyError, TypeError) as error:
        raise ValueError("the question lacks a part or has one of another kind") from error
    if not 1 <= len(arms) <= ARMS_MAX:
        raise ValueError(f"a question has 1 to {ARMS_MAX} arms")
    return read


def answer(estimates: Estimates) -> bytes:
    """Spells an answer about one context."""
    return json.dumps(
        {
            "success": estimates.success.tolist(),
            "width": estimates.width.tolist(),
            "outcomes": [int(count) for count in estimates.outcomes],
        }
    ).encode()


def answered(body: bytes, count: int) -> Estimates:
    """Reads an answer about so many arms; raises ValueError for anything else."""
    said = _object(body)
    try:
        success = np.array(said["success"], dtype=np.float64)
        width = np.array(said["width"], dtype=np.float64)
        outcomes = [int(told) for told in said["outcomes"]]
    except (KeyError, TypeError) as error:
        raise ValueError("the answer lacks a part or has one of another kind") from error
    if {success.shape, width.shape} != {(count,)} or len(outcomes) != count:
        raise ValueError("the answer is about another number of arms")
    # Comparisons are turned so that NaN fails them as well.
    if not ((np.abs(success) <= _SUCCESS_MAX).all() and (width >= 0).all()):
        raise ValueError("the answer's numbers make no sense")
    if not np.isfinite(width).all() or min(outcomes, default=0) < 0:
        raise ValueError("the answer's numbers make no sense")
    return Estimates.of(success, width, outcomes)


def _object(body: bytes) -> dict[str, Any]:
    said = json.loads(body)  # its error is a ValueError
    if not isinstance(said, dict):
        raise ValueError("the body is no JSON object")
    return said


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is text")
    return value
