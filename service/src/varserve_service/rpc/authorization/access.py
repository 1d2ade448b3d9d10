"""The security setup of a server: what it is given before it listens.

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
from varserve_service.rpc.calls.call import Authenticator

from .auditing import Auditing


@dataclass(frozen=True, slots=True)
class Access:
    """Without `tls` connections are in plaintext. Without an authenticator callers have no names.
    Without a policy every caller has full access. Without `auditing` nothing is audited.

    `policy` gives the policy that is in force now.
    """

    tls: ReloadedFiles[ServerIdentity] | None = None
    authenticator: Authenticator | None = None
    policy: Callable[[], Policy] | None = None
    auditing: Auditing | None = None

    @property
    def strangers_can_connect(self) -> bool:
        """Whether a connection needs no credential, where calls need one."""
        certified = self.tls is not None and self.tls.current.client_authorities is not None
        return self.authenticator is not None and not certified


OPEN = Access()


def server_credentials(tls: ReloadedFiles[ServerIdentity]) -> grpc.ServerCredentials:
    """TLS credentials. New connections use the files as they are now; open connections go on.

    With client authorities, a client must present a certificate that one of them has signed.
    """

    def configuration(identity: ServerIdentity) -> Any:
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.chain)], identity.client_authorities
        )

    used = tls.current

    def fetch() -> Any:
        nonlocal used
        current = tls.current
        if current is used:
            return None
        used = current
        return configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used),
        fetch,
        require_client_authentication=used.client_authorities is not None,
    )
