"""What only the mesh may say is believed of nobody else, at each hop it could be said.

Each refusal is seen on real Envoys beside its two controls: `smartpay_gateway.testing.refusals`.
A forged header is not answered by an error: it is gone, or replaced by the truth, on arrival.
"""

from __future__ import annotations

import base64

from smartpay_gateway.edge import OUTSIDERS_MAY_NOT_SEND
from smartpay_gateway.testing.attacks import (
    FORGED,
    GOOD,
    Act,
    Place,
    as_peer,
    native,
    rest,
    through_egress,
)
from smartpay_gateway.testing.lifts import (
    Change,
    Document,
    Lift,
    at_edge,
    at_payments,
    at_rewards,
    filter_of,
    letting_in,
    letting_out,
    manager_of,
    without_filter,
    without_rule,
)
from smartpay_gateway.testing.refusals import Refusals, Row

PEER = "x-forwarded-client-cert"
USER = "x-jwt-payload"
CONTEXT = "smartpay-context-bin"


def value_of(header: str) -> str:
    return base64.b64encode(FORGED.encode()).decode() if header.endswith("-bin") else FORGED


def from_outside(*headers: str) -> Act:
    """Says it by REST and by native gRPC, and tells whether it arrived."""
    said = {header: value_of(header) for header in headers}

    def saw(payment: dict[str, object]) -> str:
        return f"200 {FORGED}" if FORGED in str(payment["metadata"]) else "200"

    def act(place: Place) -> str:
        return f"{rest(headers=said, saw=saw)(place)}, {native(headers=said)(place)}"

    return act


def forwarding(listener: str) -> Change:
    def change(document: Document) -> None:
        manager_of(document, listener)["forwardClientCertDetails"] = "ALWAYS_FORWARD_ONLY"

    return change


def no_payload(document: Document) -> None:
    """Hands no verified claims on, so that none replace what the caller says they are."""
    tokens = filter_of(document, "edge", "envoy.filters.http.jwt_authn")
    del tokens["providers"]["issuer"]["forwardPayloadHeader"]


def tokens_go_on(document: Document) -> None:
    tokens = filter_of(document, "edge", "envoy.filters.http.jwt_authn")
    tokens["providers"]["issuer"]["forward"] = True


def token_kept(place: Place) -> str:
    """Calls, and tells whether the service could call on in the caller's name."""
    signed = GOOD(place.mesh.issuer) or ""

    def saw(payment: dict[str, object]) -> str:
        return "200 with the token" if signed in str(payment["metadata"]) else "200"

    return rest(by=lambda _: signed, saw=saw)(place)


def let_in(header: str) -> Lift:
    return at_edge(f"removal of {header}", letting_in(header))


def let_out(header: str) -> Lift:
    return at_rewards(f"removal of {header}", letting_out(header))


LIST = at_edge("list of what is passed on", without_filter("edge", "smartpay.forwarded"))
PEER_AT_PAYMENTS = at_payments("the peer's true name", forwarding("mesh"))
PEER_AT_EDGE = at_edge("removal of peers' names", forwarding("edge"))
PEER_AT_REWARDS = at_rewards("removal of peers' names", forwarding("egress"))
NO_USER_BY_SERVICES = at_payments("users by the edge alone", without_rule("user-not-from-edge"))
NO_CONTEXT_BY_EDGE = at_payments("contexts by services alone", without_rule("context-from-edge"))


def outside(header: str, *more: Lift, passes: str = f"200 {FORGED}, OK {FORGED}") -> Row:
    lifts = (let_in(header), *more)
    return Row(
        "from outside",
        header,
        from_outside(header),
        "200, OK",
        from_outside(),
        lifts,
        passes,
        "200, OK",
    )


def by_service(header: str, *more: Lift) -> Row:
    return Row(
        "from a service's own way out",
        header,
        through_egress(headers={header: FORGED}),
        "OK",
        through_egress(),
        (let_out(header), *more),
        f"OK {FORGED}",
        "OK",
    )


FROM_OUTSIDE = [
    outside(USER, at_edge("verified claims", no_payload)),
    outside(CONTEXT, LIST, NO_CONTEXT_BY_EDGE),
    outside(PEER, LIST, PEER_AT_EDGE, PEER_AT_PAYMENTS),
    outside("x-http-status", LIST),
    outside("x-local-reply", LIST),
    outside("x-request-id"),
    # By REST the transcoder writes its own.
    outside("x-envoy-original-path", passes=f"200, OK {FORGED}"),
    Row(
        "from outside",
        "the token itself",
        token_kept,
        "200",
        rest(),
        (at_edge("end of tokens", tokens_go_on), LIST),
        "200 with the token",
        "200",
    ),
]
ROWS = [
    *FROM_OUTSIDE,
    by_service(USER, NO_USER_BY_SERVICES),
    by_service("authorization"),
    by_service(PEER, PEER_AT_REWARDS, PEER_AT_PAYMENTS),
    Row(
        "from a peer",
        PEER,
        as_peer("rewards", headers={PEER: FORGED}),
        "OK",
        as_peer("rewards"),
        (PEER_AT_PAYMENTS,),
        f"OK {FORGED}",
        "OK",
    ),
    Row(
        "from a peer",
        USER,
        as_peer("rewards", headers={USER: FORGED}),
        "PERMISSION_DENIED",
        as_peer("edge", headers={USER: FORGED}),
        (NO_USER_BY_SERVICES,),
        f"OK {FORGED}",
    ),
]


class TestForgeries(Refusals):
    rows = tuple(ROWS)
    defences = frozenset({"from outside", "from a service's own way out", "from a peer"})


def test_nothing_that_is_removed_at_the_entrance_lacks_a_row() -> None:
    assert set(OUTSIDERS_MAY_NOT_SEND) <= {row.name for row in FROM_OUTSIDE}
