"""Signs tokens as Cognito does, for tests."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID = "demo0client"


class KeyServer:
    """Serves a key set, on the same port again after it was closed."""

    def __init__(self, keys: list[dict[str, Any]]) -> None:
        document = json.dumps({"keys": keys}).encode()

        class Keys(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(document)))
                self.end_headers()
                self.wfile.write(document)

            def log_message(self, format: str, *args: object) -> None:
                """Keeps the test's output clean."""

        self._keys = Keys
        self.port = 0
        self.serve()
        self.port = self.server.server_address[1]

    def serve(self) -> None:
        """Serves the keys; again on the same port, after `close`."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self._keys)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stops serving keys."""
        self.server.shutdown()
        self.server.server_close()


class Issuer(KeyServer):
    """Signs tokens as Cognito does and serves the keys to check them."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        super().__init__([public_key(self.key)])
        self.name = f"http://127.0.0.1:{self.port}/pool"

    def claims(self, scope: str | None, **claims: object) -> dict[str, object]:
        """Says what a token holds; keyword arguments replace claims, None leaves one out."""
        now = int(time.time())
        payload: dict[str, object] = {
            "iss": self.name,
            "sub": "somebody",
            "client_id": CLIENT_ID,
            "token_use": "access",
            "scope": scope,
            "iat": now,
            "exp": now + 600,
            **claims,
        }
        return {name: value for name, value in payload.items() if value is not None}

    def token(self, scope: str | None = "smartpay/payments.write", **claims: object) -> str:
        """Signs an access token; keyword arguments replace claims, None leaves one out."""
        said = self.claims(scope, **claims)
        return jwt.encode(said, self.key, algorithm="RS256", headers={"kid": "one"})


def public_key(key: rsa.RSAPrivateKey, kid: str = "one") -> dict[str, Any]:
    """Writes the public half as a key set does (RFC 7517)."""
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    return {**public, "kid": kid, "alg": "RS256", "use": "sig"}
