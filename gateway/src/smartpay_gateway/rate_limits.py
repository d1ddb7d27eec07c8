"""How often the edge may be called: by anybody, by one client, and on routes that cost much.

Buckets live in each edge by itself (Envoy's local rate limit with dynamic descriptors), so there
is no limiter that can be down; with n edges a client has n buckets. Those who are refused get
429, `x-ratelimit-*` and `retry-after`; native gRPC gets RESOURCE_EXHAUSTED.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/local_rate_limit_filter
"""

from __future__ import annotations

from collections.abc import Sequence

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.common.ratelimit.v3 as ratelimit
import envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 as local_ratelimit
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.type.metadata.v3 as metadata
import envoy_data_plane.envoy.type.v3 as envoy_type
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import limits
from smartpay_gateway.contract import ContractError, Method
from smartpay_gateway.filters import http_filter
from smartpay_gateway.templates import number_hole
from smartpay_gateway.transport import packed

_ALWAYS = core.RuntimeFractionalPercent(
    default_value=envoy_type.FractionalPercent(
        numerator=100, denominator=envoy_type.FractionalPercentDenominatorType.HUNDRED
    )
)
_CLIENT = "client"
_ROUTE = "route"
_ADDRESS = "remote_address"  # Envoy's own name for it


def everybody() -> hcm.HttpFilter:
    """Bounds all calls together before their tokens are looked at: signatures cost CPU."""
    return _limit("edge_calls", limits.EDGE_CALLS, says_so=False)


def each_client(tokens: str) -> hcm.HttpFilter:
    """Bounds each client by the verified `client_id`, which jwt_authn noted under `tokens`.

    Calls without a token (health, documents) share one bucket.
    """
    return _limit(
        "client_calls",
        limits.TOKENLESS_CALLS,
        [_rule(number_hole("CLIENT_CALLS"), (_CLIENT, ""))],
        [_client(tokens)],
    )


def of_pages() -> dict[str, wellknown.Any]:
    """Bounds the routes of what anybody may read, in place of the clients' bound."""
    return {"smartpay.client_calls": packed(_settings("page_calls", limits.PAGE_CALLS))}


def of_signed_bodies() -> dict[str, wellknown.Any]:
    """Bounds each address that calls without a token, in place of the clients' bound.

    By address, so that nobody uses up what a processor needs by sending what is refused.
    """
    return {
        "smartpay.client_calls": packed(
            _settings(
                "signed_calls",
                limits.TOKENLESS_CALLS,
                [_rule(limits.SIGNED_CALLS, (_ADDRESS, ""))],
                [
                    route.RateLimitAction(
                        remote_address=route.RateLimitActionRemoteAddress(),
                    )
                ],
            )
        )
    }


def costly_routes(methods: Sequence[Method], tokens: str) -> hcm.HttpFilter:
    """Bounds each client on each costly route, behind the transcoder: by the gRPC path.

    Raises ContractError for a costly route that the contract does not have.
    """
    if unknown := set(limits.COSTLY_ROUTES) - {method.path for method in methods}:
        raise ContractError(f"COSTLY_ROUTES names {sorted(unknown)}, which nobody serves.")
    return _limit(
        "costly_routes",
        None,
        [
            _rule(limits.COSTLY_CALLS, (_CLIENT, ""), (_ROUTE, path))
            for path in limits.COSTLY_ROUTES
        ],
        [
            _client(tokens),
            route.RateLimitAction(
                request_headers=route.RateLimitActionRequestHeaders(
                    header_name=":path", descriptor_key=_ROUTE
                )
            ),
        ],
    )


def _limit(
    name: str,
    otherwise: int | None,
    rules: Sequence[ratelimit.LocalRateLimitDescriptor] = (),
    described_by: Sequence[route.RateLimitAction] = (),
    *,
    says_so: bool = True,
) -> hcm.HttpFilter:
    """Builds one limiter; `otherwise` bounds all that no rule describes, `says_so` in headers."""
    return http_filter(
        f"smartpay.{name}", _settings(name, otherwise, rules, described_by, says_so=says_so)
    )


def _settings(
    name: str,
    otherwise: int | None,
    rules: Sequence[ratelimit.LocalRateLimitDescriptor] = (),
    described_by: Sequence[route.RateLimitAction] = (),
    *,
    says_so: bool = True,
) -> local_ratelimit.LocalRateLimit:
    headers = ratelimit.XRateLimitHeadersRfcVersion
    return local_ratelimit.LocalRateLimit(
        stat_prefix=name,
        token_bucket=None if otherwise is None else _bucket(otherwise),
        descriptors=list(rules),
        rate_limits=[route.RateLimit(actions=list(described_by))] if described_by else [],
        always_consume_default_token_bucket=False,
        max_dynamic_descriptors=limits.CLIENTS,
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        enable_x_ratelimit_headers=headers.DRAFT_VERSION_03 if says_so else headers.OFF,
        rate_limited_as_resource_exhausted=True,
        response_headers_to_add=[
            core.HeaderValueOption(header=core.HeaderValue(key="retry-after", value="1"))
        ],
    )


def _bucket(calls: int) -> envoy_type.TokenBucket:
    return envoy_type.TokenBucket(
        max_tokens=calls, tokens_per_fill=calls, fill_interval=limits.RATE_WINDOW
    )


def _rule(calls: int, *entries: tuple[str, str]) -> ratelimit.LocalRateLimitDescriptor:
    """Gives a bucket to each distinct value of the entries without one."""
    return ratelimit.LocalRateLimitDescriptor(
        entries=[
            ratelimit.RateLimitDescriptorEntry(key=key, value=value) for key, value in entries
        ],
        token_bucket=_bucket(calls),
    )


def _client(tokens: str) -> route.RateLimitAction:
    return route.RateLimitAction(
        metadata=route.RateLimitActionMetaData(
            descriptor_key=_CLIENT,
            metadata_key=metadata.MetadataKey(
                key=tokens,
                path=[
                    metadata.MetadataKeyPathSegment(key=segment)
                    for segment in ("payload", "client_id")
                ],
            ),
            source=route.RateLimitActionMetaDataSource.DYNAMIC,
        )
    )
