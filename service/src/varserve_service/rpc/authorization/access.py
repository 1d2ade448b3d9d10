"""How callers are let in, in one piece: what the service is given before it listens.

Knows the parts by their types alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from varserve_service.access.certificates import ServerIdentity
from varserve_service.access.policy import Policy
from varserve_service.reloading import ReloadedFiles
from varserve_service.rpc.entry.identity import Authenticator

from .auditing import Auditing


@dataclass(frozen=True, slots=True)
class Access:
    """Without `tls` connections are in plaintext, without an authenticator callers have no names,
    without a policy everybody may do everything, and without an audit nothing is audited.

    `policy` gives the one that holds now.
    """

    tls: ReloadedFiles[ServerIdentity] | None = None
    authenticator: Authenticator | None = None
    policy: Callable[[], Policy] | None = None
    auditing: Auditing | None = None


OPEN = Access()


def server_credentials(tls: ReloadedFiles[ServerIdentity]) -> grpc.ServerCredentials:
    """TLS whose new connections take the files as they are now; those that there are go on.

    With client authorities, whoever connects must show a certificate of theirs.
    """

    def configuration(found: ServerIdentity) -> Any:
        return grpc.ssl_server_certificate_configuration(
            [(found.key, found.chain)], found.client_authorities
        )

    used = tls.current

    def fetch() -> Any:
        nonlocal used
        found = tls.current
        if found is used:
            return None
        used = found
        return configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used),
        fetch,
        require_client_authentication=used.client_authorities is not None,
    )
