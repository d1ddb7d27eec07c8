"""How a route is stored: a short JSON document, written by hand because every decision waits."""

from __future__ import annotations

import json
from typing import Any

from smartpay_router.domain.breakers import State
from smartpay_router.domain.context import Context
from smartpay_router.domain.eligibility import Exclusion
from smartpay_router.domain.modes import ServedBy
from smartpay_router.domain.policy import Mode
from smartpay_router.domain.route import RankedAccount, Route

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def route_document(route: Route) -> str:
    """Writes a route; names are short, as there are many."""
    return _encode(
        {
            "v": 2,
            "ranking": [
                (
                    r.processor_account_id,
                    r.processor,
                    r.expected_success,
                    r.fee_minor,
                    r.score,
                    r.propensity,
                    r.reasons,
                    r.width,
                    r.upper_bound,
                    r.expected_value,
                    r.breaker,
                )
                for r in route.ranking
            ],
            "excluded": [
                (
                    e.processor_account_id,
                    e.code,
                    e.message,
                    e.obstacles,
                    e.rule_ids,
                    e.processor,
                    e.fee_minor,
                )
                for e in route.excluded
            ],
            "learner": route.policy_version,
            "explored": route.explored,
            "schema": route.context.schema,
            "context": route.context.values,
            "served_by": route.served_by,
            "policy": route.routing_policy_version,
            "mode": route.mode,
            "alternative": route.alternative,
            "rules": route.matched_rules,
            "order": route.static_order,
            "payer": route.payer,
            "risk": route.risk,
            "country": route.country,
            "off_session": route.off_session,
        }
    )


def route_of(document: str) -> Route:
    """Reads a route, also one of the release that knew no policies."""
    stored: dict[str, Any] = json.loads(document)
    if "v" not in stored:
        return _first_release(stored)
    return Route(
        ranking=tuple(_ranked(row) for row in stored["ranking"]),
        excluded=tuple(_excluded(row) for row in stored["excluded"]),
        policy_version=stored["learner"],
        explored=stored["explored"],
        context=Context(stored["schema"], tuple(stored["context"])),
        served_by=ServedBy(stored["served_by"]),
        routing_policy_version=stored["policy"],
        mode=Mode(stored["mode"]),
        alternative=stored["alternative"],
        matched_rules=tuple(stored["rules"]),
        static_order=tuple(stored["order"]),
        payer=stored["payer"],
        risk=stored["risk"],
        country=stored["country"],
        off_session=stored["off_session"],
    )


def _ranked(row: list[Any]) -> RankedAccount:
    account, processor, success, fee_minor, score, propensity, reasons = row[:7]
    width, upper_bound, expected_value, breaker = row[7:]
    return RankedAccount(
        account,
        processor,
        success,
        fee_minor,
        score,
        propensity,
        tuple(reasons),
        width,
        upper_bound,
        expected_value,
        State(breaker),
    )


def _excluded(row: list[Any]) -> Exclusion:
    account, code, message, obstacles, rule_ids, processor, fee_minor = row
    return Exclusion(account, code, message, obstacles, tuple(rule_ids), processor, fee_minor)


def _first_release(stored: dict[str, Any]) -> Route:
    return Route(
        ranking=tuple(
            RankedAccount(**{**ranked, "reasons": tuple(ranked["reasons"])})
            for ranked in stored["ranking"]
        ),
        excluded=tuple(Exclusion(**excluded) for excluded in stored["excluded"]),
        policy_version=stored["policy_version"],
        explored=stored["explored"],
        context=Context(stored["context"]["schema"], tuple(stored["context"]["values"])),
    )
