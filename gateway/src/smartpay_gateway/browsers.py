"""What callers of REST may ask for by headers: other origins (CORS), and answers in gzip."""

from __future__ import annotations

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.compression.gzip.compressor.v3 as gzip
import envoy_data_plane.envoy.extensions.filters.http.compressor.v3 as compressor
import envoy_data_plane.envoy.extensions.filters.http.cors.v3 as cors
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import limits
from smartpay_gateway.filters import http_filter
from smartpay_gateway.templates import hole
from smartpay_gateway.transport import packed

CORS = "envoy.filters.http.cors"
SENT_BY_PAGES = (
    "accept",
    "authorization",
    "content-type",
    "idempotency-key",
    "if-none-match",
    "smartpay-merchant",
    "traceparent",
    "tracestate",
)
READ_BY_PAGES = (
    "etag",
    "idempotent-replayed",
    "location",
    "retry-after",
    "www-authenticate",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
)


def other_origins() -> hcm.HttpFilter:
    """Answers preflights, which carry no token, and tells browsers who may read answers."""
    return http_filter(CORS, cors.Cors())


def allowed_origins() -> dict[str, wellknown.Any]:
    """Allows the environment's origins on all routes of a virtual host.

    No credentials: tokens travel in a header that scripts set, cookies are not read at all.
    """
    return {
        CORS: packed(
            cors.CorsPolicy(
                allow_origin_string_match=[
                    matcher.StringMatcher(
                        safe_regex=matcher.RegexMatcher(regex=hole("BROWSER_ORIGINS"))
                    )
                ],
                allow_methods="GET, HEAD, POST, OPTIONS",
                allow_headers=", ".join(SENT_BY_PAGES),
                expose_headers=", ".join(READ_BY_PAGES),
                max_age=str(limits.PREFLIGHT_CACHE.seconds),
                allow_credentials=False,
                forward_not_matching_preflights=False,
            )
        )
    }


def gzip_filter() -> hcm.HttpFilter:
    """Compresses whole JSON answers that are large enough to gain by it; streams never.

    Compression would leak secrets to somebody who makes the victim's browser send calls of his
    choice (BREACH, https://www.breachattack.com): without cookies he can't.
    """
    return http_filter(
        "envoy.filters.http.compressor",
        compressor.Compressor(
            compressor_library=core.TypedExtensionConfig(
                name="gzip",
                typed_config=packed(
                    gzip.Gzip(compression_level=gzip.GzipCompressionLevel.BEST_SPEED)
                ),
            ),
            response_direction_config=compressor.CompressorResponseDirectionConfig(
                # Envoy's own list of content types has JSON and HTML, and no kind of stream.
                common_config=compressor.CompressorCommonDirectionConfig(
                    min_content_length=limits.GZIP_BYTES
                ),
                weaken_etag_on_compress=True,
            ),
        ),
    )
