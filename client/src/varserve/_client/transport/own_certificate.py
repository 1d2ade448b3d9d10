"""Whether a client's own certificate is valid now. Knows the ssl module alone."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

from .credentials import Tls
from .explanations import Fault

_FAULTS: Final = {10: Fault.OWN_EXPIRED, 9: Fault.OWN_EARLY}
"""By OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID."""
_STEPS = 4


def fault_of(tls: Tls) -> Fault | None:
    """What a service that believes the certificate's authority would find wrong with it.

    By this machine's clock. The ssl module reads no certificate of one's own, so both sides of a
    handshake are made here, and the server's side trusts just this certificate.
    """
    if tls.cert is None:
        return None
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server = _context(ssl.PROTOCOL_TLS_SERVER, tls)
        server.verify_mode = ssl.CERT_REQUIRED
        server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        server.load_verify_locations(tls.cert)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, tls)
        sides = (
            client.wrap_bio(to_client, to_server),
            server.wrap_bio(to_server, to_client, server_side=True),
        )
        for side in sides * _STEPS:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return _FAULTS.get(error.verify_code)
    except OSError:  # files that cannot be used are told of elsewhere
        pass
    return None


def _context(protocol: int, tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert tls.cert is not None
    context.load_cert_chain(tls.cert, tls.key)
    return context
