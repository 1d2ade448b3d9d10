"""Why a connection failed, for people: gRPC's text, explained.

gRPC reports every failed connection as UNAVAILABLE, and tells them apart in its text alone.
"""

from __future__ import annotations

import re

from .targets import is_local

_ADDRESS = re.compile(r"^.*?last error: (?:[A-Z_]+: )*", re.DOTALL)


def explain(details: str, target: str, encrypted: bool) -> str:
    """What is the matter with a connection to `target`, and what to try; "" for anything else."""
    if "Connection refused" in details:
        start = "; `varserve-service serve` starts a service" if is_local(target) else ""
        return f"{target}: no service listens there{start}"
    if "No such file or directory" in details and target.startswith("unix:"):
        return f"{target}: there is no such socket; expected the path that the service listens at"
    if "Domain name not found" in details or "name lookup" in details:
        return f"{target}: no address is known for this name"
    if "WRONG_VERSION_NUMBER" in details:
        return f"{target}: expected TLS, found plaintext; connect without TLS"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        reason = details.partition("CERTIFICATE_VERIFY_FAILED: ")[2].removesuffix(": OK")
        return (
            f"{target}: its certificate is not believed ({reason or 'it was not verified'}); "
            "expected one of the authority that `ca` names"
        )
    if re.search("Hostname Verification Check failed|is not in peer certificate", details):
        return f"{target}: its certificate is for another name; `server_name` says which to expect"
    if "Failed to create security handshaker" in details:
        return f"{target}: the files for TLS cannot be used together"
    if "Failed parsing HTTP/2" in details or "http1" in details.lower():
        return f"{target}: expected gRPC, found HTTP/1; it is another service, or another port"
    if "failed to connect" in details and re.search("Socket closed|Connection reset", details):
        wants = (
            "it may want a certificate of this client: give `cert` and `key`"
            if encrypted
            else "it may want TLS: give `tls`, or `ca`"
        )
        return f"{target}: closed the connection at once; {wants}"
    if "failed to connect" in details:
        return f"{target}: {_ADDRESS.sub('', details)}"
    return ""
