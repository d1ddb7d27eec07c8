"""The edge's Envoy: tokens, strict input, REST to gRPC, and problems people can act on."""

from __future__ import annotations

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.rbac.v3 as rbac
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder.v3 as transcoder
import envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 as jwt
import envoy_data_plane.envoy.extensions.filters.http.lua.v3 as lua
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 as early
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import filters, limits, strict_input, transport
from smartpay_gateway.contract import Contract, Method
from smartpay_gateway.sidecar import CONTEXT_HEADER, USER_HEADER
from smartpay_gateway.templates import hole, port_hole
from smartpay_gateway.topology import EDGE

HEALTH_PATH = "/healthz"
TOKEN_METADATA = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"
# Set by the local reply mapper, read and removed by answer.lua.
LOCAL_REPLY_HEADER = "x-local-reply"
# What only we may say; Envoy's own x-envoy-* are removed by prefix.
OUTSIDERS_MAY_NOT_SEND = (
    USER_HEADER,
    CONTEXT_HEADER,
    "x-forwarded-client-cert",
    "x-http-status",
    LOCAL_REPLY_HEADER,
    "x-request-id",
)
ACCESS_LOG_FIELDS = {
    # Of a REST call Envoy would guess a gRPC status; the sidecar's line has the true one.
    **{k: v for k, v in filters.ACCESS_LOG_FIELDS.items() if k != "grpc_status"},
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    # As answer.lua notes it: no query string, nothing like a card number.
    "path": "%DYNAMIC_METADATA(smartpay.rest:path)%",
}
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
    healthz = route.Route(
        name="healthz",
        match=route.RouteMatch(path=HEALTH_PATH),
        direct_response=route.DirectResponseAction(
            status=200, body=core.DataSource(inline_string="ok\n")
        ),
        # These three know only the contract's paths.
        typed_per_filter_config={
            name: transport.packed(route.FilterConfig(disabled=True))
            for name in (
                "smartpay.strict_input",
                "envoy.filters.http.grpc_json_transcoder",
                "envoy.filters.http.rbac",
            )
        },
    )
    routes = filters.route_table(
        EDGE, [healthz, *(filters.method_route(m, m.service) for m in methods)]
    )
    manager = filters.connection_manager(
        EDGE,
        routes,
        [
            _lua("smartpay.answer", strict_input.answer_script()),
            _tokens(),
            _lua("smartpay.strict_input", strict_input.strict_input_script(methods)),
            _transcoder(contract),
            _scopes(methods),
            filters.router_filter(),
        ],
        hcm.HttpConnectionManagerCodecType.AUTO,
    )
    manager.access_log = [filters.access_log(ACCESS_LOG_FIELDS)]
    manager.use_remote_address = True
    # An escaped slash stays inside its variable, where the service refuses it with a reason.
    manager.path_with_escaped_slashes_action = (
        hcm.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED
    )
    manager.always_set_request_id_in_response = True
    manager.request_timeout = limits.REQUEST_TIMEOUT
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
        [*transport.clusters(services), transport.key_set(), transport.admin()],
        limits.EDGE_CONNECTIONS,
    )


def _lua(name: str, script: str) -> hcm.HttpFilter:
    return filters.http_filter(
        name, lua.Lua(default_source_code=core.DataSource(inline_string=script))
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


def _local_replies() -> hcm.LocalReplyConfig:
    """Marks Envoy's own refusals with their cause, for answer.lua to put into words.

    An answer that grew too large to transcode never meets the Lua: its words stand here.
    """
    return hcm.LocalReplyConfig(
        mappers=[
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
            ),
            hcm.ResponseMapper(
                filter=_status(accesslog.ComparisonFilterOp.GE, 400),
                headers_to_add=[
                    core.HeaderValueOption(
                        header=core.HeaderValue(
                            key=LOCAL_REPLY_HEADER, value="%RESPONSE_CODE_DETAILS%"
                        ),
                        append_action=(
                            core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
                        ),
                    )
                ],
            ),
        ]
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
        "envoy.filters.http.jwt_authn",
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


def _transcoder(contract: Contract) -> hcm.HttpFilter:
    services = sorted({m.path.split("/")[1] for m in contract.from_outside()})
    return filters.http_filter(
        "envoy.filters.http.grpc_json_transcoder",
        transcoder.GrpcJsonTranscoder(
            proto_descriptor_bin=contract.envoy_descriptors,
            services=services,
            convert_grpc_status=True,
            print_options=transcoder.GrpcJsonTranscoderPrintOptions(
                always_print_primitive_fields=True, stream_sse_style_delimited=True
            ),
            request_validation_options=transcoder.GrpcJsonTranscoderRequestValidationOptions(
                reject_unknown_method=True,
                reject_unknown_query_parameters=True,
                reject_binding_body_field_collisions=True,
            ),
            max_request_body_size=limits.BODY_BYTES,
            max_response_body_size=limits.RESPONSE_BYTES,
        ),
    )


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
                    rbac.Principal(
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
