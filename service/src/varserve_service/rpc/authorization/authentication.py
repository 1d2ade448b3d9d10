"""Authentication: the caller's name from a bearer token or a client certificate.

Knows gRPC's contexts. Whether a certificate or a token is valid is decided in `access`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from varserve_service.access.certificates import CertifiedSubject, certified_subject
from varserve_service.access.subjects import CredentialError
from varserve_service.access.tokens import Tokens, subject_of_token
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc.calls.call import Context

_HEADER = "authorization"
_SCHEME = "bearer "
_MAX_CERTIFICATES = 1024


class CallerAuthenticator:
    """Takes the caller's name from the token where one is sent, else from the certificate.

    An invalid credential is refused even if the other one is valid: there is no fallback.
    """

    def __init__(
        self,
        *,
        certificates: bool,
        tokens: Sequence[Tokens],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`certificates`: connections have verified client certificates, which may name callers."""
        self._certificates = certificates
        self._tokens = tuple(tokens)
        self._clock = clock
        self._named: OrderedDict[bytes, CertifiedSubject] = OrderedDict()

    async def subject(self, context: Context) -> str:
        """The caller's name. Raises RequestError UNAUTHENTICATED."""
        try:
            token = _token(context)
            if token is not None:
                return await subject_of_token(token, self._tokens)
            if self._certificates:
                return self._certified(context)
        except CredentialError as error:
            raise RequestError(Reason.UNAUTHENTICATED, str(error)) from None
        raise RequestError(
            Reason.UNAUTHENTICATED, "expected `authorization: Bearer TOKEN`, found no token"
        )

    def _certified(self, context: Context) -> str:
        (pem,) = context.auth_context().get("x509_pem_cert") or (None,)
        if pem is None:
            raise CredentialError("the connection has no client certificate")
        named = self._named.get(pem)
        if named is None:
            named = self._named[pem] = certified_subject(pem)
            if len(self._named) > _MAX_CERTIFICATES:
                self._named.popitem(last=False)
        # It was valid when the connection began, which may be long ago.
        if self._clock() >= named.expires:
            raise CredentialError("the client certificate has expired")
        return named.subject


def _token(context: Context) -> str | None:
    """The bearer token, None when there is no credential. Raises CredentialError."""
    values = [value for key, value in context.invocation_metadata() or () if key == _HEADER]
    if not values:
        return None
    if len(values) > 1:
        raise CredentialError(f"expected one `{_HEADER}`, found {len(values)}")
    value = values[0]
    if not isinstance(value, str) or value[: len(_SCHEME)].lower() != _SCHEME:
        raise CredentialError(f"expected `{_HEADER}: Bearer TOKEN`, found another scheme")
    token = value[len(_SCHEME) :].strip()
    if not token:
        raise CredentialError(f"expected `{_HEADER}: Bearer TOKEN`, found no token")
    return token
