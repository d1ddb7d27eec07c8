"""The edge's Envoy: tokens, strict input, REST to gRPC, and problems people can act on."""

from __future__ import annotations

import re
from collections.abc import Set

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.rbac.v3 as rbac
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 as header_mutation
import envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 as jwt
import envoy_data_plane.envoy.extensions.filters.http.lua.v3 as lua
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 as early
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import (
    browsers,
    filters,
    limits,
    overload,
    pages,
    rate_limits,
    strict_input,
    traces,
    transcoding,
    transport,
)
from smartpay_gateway.contract import Contract, Method
from smartpay_gateway.openapi import openapi
from smartpay_gateway.sidecar import CONTEXT_HEADER, USER_HEADER
from smartpay_gateway.templates import hole, port_hole
from smartpay_gateway.topology import EDGE

HEALTH_PATH = "/healthz"
TOKENS = TOKEN_METADATA = "envoy.filters.http.jwt_authn"
# These know only the contract's paths.
CONTRACT_ONLY = ("smartpay.strict_input", transcoding.TRANSCODER, "envoy.filters.http.rbac")
PAYLOAD = "payload"
# Set by the local reply mapper, read and removed by answer.lua.
LOCAL_REPLY_HEADER = "x-local-reply"
# Set by us on every answer, read and removed by answer.lua: what it must know of the request.
# Notes between the two scripts (dynamic metadata) cost five times as much. What callers write
# comes last; the first verb is the one before transcoding, empty without.
CALL_HEADER = "x-call"
CALL = (
    "%REQ(X-REQUEST-ID)%|%TRACE_ID%|%ROUTE_NAME%|%REQ(X-ENVOY-ORIGINAL-METHOD)%|%REQ(:METHOD)%|"
    "%REQ(TRACEPARENT)%"
)
# What only we may say; Envoy's own x-envoy-* are removed by prefix.
OUTSIDERS_MAY_NOT_SEND = (
    USER_HEADER,
    CONTEXT_HEADER,
    "x-forwarded-client-cert",
    "x-http-status",
    LOCAL_REPLY_HEADER,
    "x-request-id",
)
# What a service hears of an outside request, besides Envoy's own x-envoy-* and pseudo headers.
FORWARDED = (
    "content-length",
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "idempotency-key",
    "smartpay-merchant",
    "stripe-signature",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "user-agent",
    "x-forwarded-proto",
    USER_HEADER,
    "x-request-id",
)
ACCESS_LOG_FIELDS = {
    # Of a REST call Envoy would guess a gRPC status; the sidecar's line has the true one.
    **{k: v for k, v in filters.ACCESS_LOG_FIELDS.items() if k != "grpc_status"},
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "path": "%PATH(NQ:ORIG_OR_PATH)%",
}
# Twelve digits in a path, however written and parted, may be a card's.
_CARD_LIKE = r"[^?]*(([0-9]|%3[0-9])([-+._ ]|%[0-9A-Fa-f]{2})*){12}[^?]*(\?.*)?"
INTERNAL_PROBLEM: dict[str, object] = {
    "type": "https://smartpay.dev/problems/internal",
    "title": "Internal",
    "status": 500,
    "reason": "INTERNAL",
    "detail": "The answer is too large for REST.",
    "remedy": "Ask for less at once, or use gRPC.",
    "errors": [],
    "requestId": "%REQ(X-REQUEST-ID)%",
}


def edge(contract: Contract, *, tls: bool) -> bootstrap.Bootstrap:
    """Builds the edge; without `tls` it must stand behind something that ends TLS."""
    methods = contract.from_outside()
    routes = filters.route_table(
        EDGE,
        [
            _healthz(),
            *pages.page_routes(pages.pages(openapi(contract)), [TOKENS, *CONTRACT_ONLY]),
            *(filters.method_route(m, m.service) for m in methods),
            *transcoding.line_routes(contract),
            *transcoding.signed_routes(contract, _without_token()),
            transcoding.any_path(),
        ],
    )
    routes.max_direct_response_body_size_bytes = limits.PAGE_BYTES
    routes.response_headers_to_add = [_header(CALL_HEADER, CALL)]
    routes.response_headers_to_remove = [LOCAL_REPLY_HEADER, "grpc-accept-encoding"]
    routes.virtual_hosts[0].typed_per_filter_config = browsers.allowed_origins()
    manager = filters.connection_manager(
        EDGE,
        routes,
        [
            # On the way back the last one here comes first: answers are compressed when written.
            browsers.gzip_filter(),
            browsers.other_origins(),
            _lua("smartpay.answer", strict_input.answer_script(methods)),
            rate_limits.everybody(),
            _tokens(),
            rate_limits.each_client(TOKEN_METADATA),
            _forwarded(),
            _lua("smartpay.strict_input", strict_input.strict_input_script(methods)),
            transcoding.transcoding(contract),
            rate_limits.costly_routes(methods, TOKEN_METADATA),
            _scopes(methods),
            filters.router_filter(),
        ],
        hcm.HttpConnectionManagerCodecType.AUTO,
    )
    manager.access_log = _access_logs()
    manager.use_remote_address = True
    # An escaped slash stays inside its variable, where the service refuses it with a reason.
    manager.path_with_escaped_slashes_action = (
        hcm.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED
    )
    manager.always_set_request_id_in_response = True
    manager.request_timeout = limits.REQUEST_TIMEOUT
    manager.tracing = traces.tracing(EDGE)
    manager.early_header_mutation_extensions = [_outsiders_headers()]
    manager.local_reply_config = _local_replies()
    services = sorted({m.service for m in methods})
    return filters.envoy(
        EDGE,
        [
            filters.http_listener(
                EDGE,
                transport.tcp(hole("LISTEN_HOST"), port_hole("LISTEN_PORT")),
                manager,
                transport.public_tls_server() if tls else None,
            ),
            filters.ops_listener(None),
        ],
        [
            *transport.clusters(services),
            transport.key_set(),
            transport.admin(),
            traces.collector(),
            transcoding.nowhere(),
        ],
        limits.EDGE_CONNECTIONS,
        limits.EDGE_HEAP_BYTES,
    )


def _healthz() -> route.Route:
    return route.Route(
        name="healthz",
        match=route.RouteMatch(path=HEALTH_PATH),
        direct_response=route.DirectResponseAction(
            status=200, body=core.DataSource(inline_string="ok\n")
        ),
        typed_per_filter_config={
            name: transport.packed(route.FilterConfig(disabled=True)) for name in CONTRACT_ONLY
        },
    )


def _lua(name: str, script: str) -> hcm.HttpFilter:
    return filters.http_filter(
        name,
        lua.Lua(
            default_source_code=core.DataSource(inline_string=script),
            # Scripts drop headers, none of which chooses another route.
            clear_route_cache=False,
        ),
    )


def _outsiders_headers() -> core.TypedExtensionConfig:
    removals = [mutation.HeaderMutation(remove=name) for name in OUTSIDERS_MAY_NOT_SEND]
    removals.append(
        mutation.HeaderMutation(
            remove_on_match=mutation.HeaderMutationRemoveOnMatch(
                key_matcher=matcher.StringMatcher(prefix="x-envoy-", ignore_case=True)
            )
        )
    )
    return core.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=transport.packed(early.HeaderMutation(mutations=removals)),
    )


def _forwarded() -> hcm.HttpFilter:
    """Lets nothing of a request pass to a service but what it may hear, `FORWARDED`."""
    others = _none_of({*FORWARDED, ":*", "x-envoy-*"})
    return filters.http_filter(
        "smartpay.forwarded",
        header_mutation.HeaderMutation(
            mutations=header_mutation.Mutations(
                request_mutations=[
                    mutation.HeaderMutation(
                        remove_on_match=mutation.HeaderMutationRemoveOnMatch(
                            key_matcher=matcher.StringMatcher(
                                safe_regex=matcher.RegexMatcher(regex=others)
                            )
                        )
                    )
                ]
            )
        ),
    )


def _none_of(names: Set[str]) -> str:
    """Writes a regular expression of all names but these; `*` ends one whose end is free.

    RE2 can't negate, so each letter that leads to none of the names is written out. In Lua the
    same list cost a microsecond per header, which is more.
    """
    endings: dict[str, set[str]] = {}
    for name in names - {""}:
        endings.setdefault(name[0], set()).add(name[1:])
    ways = [f"[^{''.join(map(re.escape, sorted(endings)))}].*"] if endings else [".+"]
    ways += [
        f"{re.escape(first)}{_none_of(rest)}"
        for first, rest in sorted(endings.items())
        if "*" not in rest
    ]
    return f"({'|'.join(ways)})" + ("" if "" in names else "?")


def _access_logs() -> list[accesslog.AccessLog]:
    """Shows paths without their query, and none that may hold a card's number."""
    paths = (":path", "x-envoy-original-path")
    plain = accesslog.AndFilter(filters=[_like_a_card(path, is_so=False) for path in paths])
    others = accesslog.OrFilter(filters=[_like_a_card(path, is_so=True) for path in paths])
    return [
        filters.access_log(ACCESS_LOG_FIELDS, accesslog.AccessLogFilter(and_filter=plain)),
        filters.access_log(
            ACCESS_LOG_FIELDS | {"path": "(digits)"}, accesslog.AccessLogFilter(or_filter=others)
        ),
    ]


def _like_a_card(header: str, *, is_so: bool) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        header_filter=accesslog.HeaderFilter(
            header=route.HeaderMatcher(
                name=header,
                string_match=matcher.StringMatcher(
                    safe_regex=matcher.RegexMatcher(regex=_CARD_LIKE)
                ),
                invert_match=not is_so,
                treat_missing_header_as_empty=True,
            )
        )
    )


def _local_replies() -> hcm.LocalReplyConfig:
    """Marks Envoy's own refusals with their cause, for answer.lua to put into words.

    An answer that grew too large to transcode never meets the Lua: its words stand here.
    """
    return hcm.LocalReplyConfig(
        mappers=[
            overload.overload_reply(),
            hcm.ResponseMapper(
                filter=accesslog.AccessLogFilter(
                    and_filter=accesslog.AndFilter(
                        filters=[_status(accesslog.ComparisonFilterOp.EQ, 500), _from_rest()]
                    )
                ),
                body_format_override=core.SubstitutionFormatString(
                    json_format=wellknown.Struct.from_dict(INTERNAL_PROBLEM),
                    content_type="application/problem+json",
                ),
                # No Lua removes it here, so no more is left than the problem says.
                headers_to_add=[_header(CALL_HEADER, "%REQ(X-REQUEST-ID)%")],
            ),
            hcm.ResponseMapper(
                filter=_status(accesslog.ComparisonFilterOp.GE, 400),
                headers_to_add=[
                    _header(LOCAL_REPLY_HEADER, "%RESPONSE_CODE_DETAILS%"),
                    # Only where no route has said it: no trace is known here.
                    _header(CALL_HEADER, CALL, unless_said=True),
                ],
            ),
        ]
    )


def _header(name: str, value: str, *, unless_said: bool = False) -> core.HeaderValueOption:
    actions = core.HeaderValueOptionHeaderAppendAction
    return core.HeaderValueOption(
        header=core.HeaderValue(key=name, value=value),
        append_action=actions.ADD_IF_ABSENT if unless_said else actions.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _status(operator: accesslog.ComparisonFilterOp, status: int) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        status_code_filter=accesslog.StatusCodeFilter(
            comparison=accesslog.ComparisonFilter(
                op=operator,
                value=core.RuntimeUInt32(
                    default_value=status, runtime_key=f"smartpay.local_reply_{status}"
                ),
            )
        )
    )


def _from_rest() -> accesslog.AccessLogFilter:
    """Matches what the transcoder made out of REST; only it sets this header."""
    return accesslog.AccessLogFilter(
        header_filter=accesslog.HeaderFilter(
            header=route.HeaderMatcher(name="x-envoy-original-path", present_match=True)
        )
    )


def _tokens() -> hcm.HttpFilter:
    """Verifies the token of every call but /healthz; Authorization ends here.

    No token cache: a cached token outlives its key. The token is taken from the header alone,
    since addresses end up in logs.
    """
    provider = jwt.JwtProvider(
        issuer=hole("ISSUER"),
        remote_jwks=jwt.RemoteJwks(
            http_uri=core.HttpUri(
                uri=(
                    f"{hole('JWKS_SCHEME')}://{hole('JWKS_HOST')}:{{{{JWKS_PORT}}}}"
                    f"{hole('JWKS_PATH')}"
                ),
                cluster="jwks",
                timeout=limits.JWKS_TIMEOUT,
            ),
            cache_duration=limits.JWKS_CACHE,
            # The port opens once the keys were asked for: a ready edge can check tokens.
            async_fetch=jwt.JwksAsyncFetch(fast_listener=False),
        ),
        forward=False,
        from_headers=[jwt.JwtHeader(name="authorization", value_prefix="Bearer ")],
        forward_payload_header=USER_HEADER,
        payload_in_metadata=PAYLOAD,
        normalize_payload_in_metadata=jwt.JwtProviderNormalizePayload(
            space_delimited_claims=["scope"]
        ),
        require_expiration=True,
        clock_skew_seconds=limits.CLOCK_SKEW_SECONDS,
    )
    return filters.http_filter(
        TOKENS,
        jwt.JwtAuthentication(
            providers={"issuer": provider},
            rules=[
                jwt.RequirementRule(match=route.RouteMatch(path=HEALTH_PATH)),
                jwt.RequirementRule(
                    match=route.RouteMatch(prefix="/"),
                    requires=jwt.JwtRequirement(provider_name="issuer"),
                ),
            ],
        ),
    )


def _without_token() -> dict[str, wellknown.Any]:
    """What a route past the token check has in its place."""
    return rate_limits.of_signed_bodies() | {
        TOKENS: transport.packed(jwt.PerRouteConfig(disabled=True))
    }


def _scopes(methods: tuple[Method, ...]) -> hcm.HttpFilter:
    """Asks for an access token of a known client with the method's scope.

    Behind the transcoder, so that REST and native gRPC are judged by the same gRPC path.
    """
    return filters.rules(
        "scopes_",
        rbac.RbacAction.ALLOW,
        {
            method.path: rbac.Policy(
                permissions=[filters.calling(method.path)],
                principals=[
                    rbac.Principal(any=True)
                    if method.signed
                    else rbac.Principal(
                        and_ids=rbac.PrincipalSet(
                            ids=[
                                _claim("token_use", _exactly("access")),
                                _claim(
                                    "client_id",
                                    matcher.ValueMatcher(
                                        string_match=matcher.StringMatcher(
                                            safe_regex=matcher.RegexMatcher(
                                                regex=hole("CLIENT_IDS")
                                            )
                                        )
                                    ),
                                ),
                                _claim(
                                    "scope",
                                    matcher.ValueMatcher(
                                        list_match=matcher.ListMatcher(
                                            one_of=_exactly(method.scope)
                                        )
                                    ),
                                ),
                            ]
                        )
                    )
                ],
            )
            for method in methods
        },
    )


def _exactly(text: str) -> matcher.ValueMatcher:
    return matcher.ValueMatcher(string_match=matcher.StringMatcher(exact=text))


def _claim(name: str, value: matcher.ValueMatcher) -> rbac.Principal:
    return rbac.Principal(
        sourced_metadata=rbac.SourcedMetadata(
            metadata_matcher=matcher.MetadataMatcher(
                filter=TOKEN_METADATA,
                path=[
                    matcher.MetadataMatcherPathSegment(key=PAYLOAD),
                    matcher.MetadataMatcherPathSegment(key=name),
                ],
                value=value,
            ),
            metadata_source=rbac.MetadataSource.DYNAMIC,
        )
    )
