"""Switches one defence of a committed template off, so that a test sees what it is worth."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from smartpay_gateway.testing.mesh import Mesh

Document = dict[str, Any]
Change = Callable[[Document], None]
RBAC = "envoy.filters.http.rbac"
ANYBODY = [{"any": True}]


def _no_holes(_: Mesh, __: contextlib.ExitStack) -> Mapping[str, str]:
    return {}


def _no_change(_: Document) -> None:
    return None


@dataclass(frozen=True)
class Lift:
    """One defence of one Envoy, and how it is switched off.

    `template` is whose defence it is, `change` spoils that template's document. `holes` fills some
    holes otherwise, for what stands beside the template: certificates, key sets, neighbours; what
    it starts ends with the given stack.
    """

    template: str
    defence: str
    change: Change = _no_change
    holes: Callable[[Mesh, contextlib.ExitStack], Mapping[str, str]] = _no_holes

    def __str__(self) -> str:
        return f"{self.template}: {self.defence}"


def lifted(lifts: Iterable[Lift]) -> Callable[[str], str]:
    """Makes one change of a template's text out of several lifts.

    Raises ValueError for a lift that changes nothing: the test would prove nothing.
    """

    def change(template: str) -> str:
        document = json.loads(template)
        for lift in lifts:
            before = json.dumps(document)
            lift.change(document)
            if lift.change is not _no_change and json.dumps(document) == before:
                raise ValueError(f"{lift} changes nothing.")
        return json.dumps(document)

    return change


def at_payments(defence: str, change: Change) -> Lift:
    """Lifts a defence of payments' sidecar."""
    return Lift("sidecar-payments", defence, change)


def at_rewards(defence: str, change: Change) -> Lift:
    """Lifts a defence of rewards' sidecar, whose service may call payments."""
    return Lift("sidecar-rewards", defence, change)


def at_edge(defence: str, change: Change) -> Lift:
    """Lifts a defence of the edge."""
    return Lift("edge", defence, change)


def listener_of(document: Document, name: str) -> Document:
    """Finds a listener."""
    found: Document
    (found,) = (x for x in document["staticResources"]["listeners"] if x["name"] == name)
    return found


def chain_of(document: Document, listener: str) -> Document:
    """Finds a listener's one filter chain."""
    chain: Document = listener_of(document, listener)["filterChains"][0]
    return chain


def manager_of(document: Document, listener: str) -> Document:
    """Finds a listener's connection manager."""
    manager: Document = chain_of(document, listener)["filters"][0]["typedConfig"]
    return manager


def tls_of(document: Document, listener: str) -> Document:
    """Finds what a listener asks of TLS."""
    tls: Document = chain_of(document, listener)["transportSocket"]["typedConfig"]
    return tls


def cluster_tls_of(document: Document, cluster: str) -> Document:
    """Finds what is asked of a neighbour's TLS."""
    (found,) = (x for x in document["staticResources"]["clusters"] if x["name"] == cluster)
    tls: Document = found["transportSocket"]["typedConfig"]
    return tls


def filter_of(document: Document, listener: str, name: str, holding: str = "") -> Document:
    """Finds a filter's settings by its name, and by a text where two have that name."""
    (found,) = (
        x["typedConfig"]
        for x in manager_of(document, listener)["httpFilters"]
        if x["name"] == name and holding in json.dumps(x)
    )
    settings: Document = found
    return settings


def without_filter(listener: str, name: str, holding: str = "") -> Change:
    """Takes a filter out of the chain."""

    def change(document: Document) -> None:
        unwanted = filter_of(document, listener, name, holding)
        manager = manager_of(document, listener)
        manager["httpFilters"] = [
            x for x in manager["httpFilters"] if x["typedConfig"] is not unwanted
        ]

    return change


def for_anybody(listener: str, method: str, holding: str = "callers_") -> Change:
    """Lets anybody call one method, as far as the access rules of a listener go."""

    def change(document: Document) -> None:
        rules = filter_of(document, listener, RBAC, holding)["rules"]
        policy = {"permissions": [{"urlPath": {"path": {"exact": method}}}]}
        rules["policies"][method] = {**policy, "principals": ANYBODY}

    return change


def without_rule(name: str) -> Change:
    """Takes one rule out of those that deny."""

    def change(document: Document) -> None:
        del filter_of(document, "mesh", RBAC, "forgeries_")["rules"]["policies"][name]

    return change


def without_claim(claim: str) -> Change:
    """Asks no longer for one claim of a token, whatever the method."""

    def change(document: Document) -> None:
        for policy in filter_of(document, "edge", RBAC)["rules"]["policies"].values():
            # What is signed by its sender needs no token.
            if every := policy["principals"][0].get("andIds"):
                every["ids"] = [x for x in every["ids"] if f'"key": "{claim}"' not in json.dumps(x)]

    return change


def with_route(listener: str, method: str, cluster: str) -> Change:
    """Gives a method a route."""

    def change(document: Document) -> None:
        routes = manager_of(document, listener)["routeConfig"]["virtualHosts"][0]["routes"]
        routes.insert(0, {"match": {"path": method}, "route": {"cluster": cluster}})

    return change


def letting_in(header: str) -> Change:
    """Leaves a header where the edge removes it from callers' requests."""

    def change(document: Document) -> None:
        (extension,) = manager_of(document, "edge")["earlyHeaderMutationExtensions"]
        settings = extension["typedConfig"]
        settings["mutations"] = [
            x
            for x in settings["mutations"]
            if x.get("remove") != header
            and not ("removeOnMatch" in x and header.startswith("x-envoy-"))
        ]

    return change


def letting_out(header: str) -> Change:
    """Leaves a header where an egress removes it from its service's calls."""

    def change(document: Document) -> None:
        manager_of(document, "egress")["routeConfig"]["requestHeadersToRemove"].remove(header)

    return change


def script(listener: str, name: str, old: str, new: str) -> Change:
    """Replaces a text of a Lua script; raises ValueError when the script lacks it."""

    def change(document: Document) -> None:
        source = filter_of(document, listener, name)["defaultSourceCode"]
        if old not in source["inlineString"]:
            raise ValueError(f"{name} has no {old}")
        source["inlineString"] = source["inlineString"].replace(old, new)

    return change
