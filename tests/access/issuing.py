"""An issuer of tokens: its keys, the tokens that it signs, and an address that has its keys."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://issuer.example.org", "varserve"
RSA, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    algorithm = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    (kind,) = (found for base, found in algorithm.items() if isinstance(key, base))
    found: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    return found | ({} if kid is None else {"kid": kid}) | fields


def claims(**fields: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": "trainer", "exp": now + 600, "iat": now}
    return {key: value for key, value in (found | fields).items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: Any = "one", **fields: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**fields), key, algorithm=algorithm, headers=headers)


class Issuer(http.server.BaseHTTPRequestHandler):
    """Serves what `answer` says, and counts."""

    answer: Any = None
    asked = 0
    gate: threading.Event | None = None

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.gate is not None:
            assert self.gate.wait(20)
        self.send_response(200 if self.answer is not None else 503)
        self.end_headers()
        self.wfile.write(json.dumps(self.answer).encode())

    def log_message(self, *args: Any) -> None:
        pass


class Listening(http.server.ThreadingHTTPServer):
    """Says nothing of connections that fail: they are what some tests are about."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def issuer(certificate: trustme.LeafCert | None = None) -> Iterator[tuple[type[Issuer], str]]:
    """An issuer of keys at an address: https, where it has a certificate."""
    kind = type("One", (Issuer,), {})
    with Listening(("127.0.0.1", 0), kind) as server:
        scheme = "http"
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(context)
            # The handshake is made by the thread of its request, not by the one that accepts.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            scheme = "https"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield kind, f"{scheme}://127.0.0.1:{server.server_address[1]}/keys"
        server.shutdown()
