"""The TCP socket under TLS, by Python's ssl: warm buffers on both sides."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.sides import Ready, tcp


def make_certificate(folder: Path) -> None:
    """`cert.pem`, `key.pem` and `ca.pem` in a folder, for localhost."""
    import trustme

    if (folder / "ca.pem").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")


def serve(ready: Ready, folder: Path) -> None:
    make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    ready(f"127.0.0.1:{listener.getsockname()[1]},{folder.resolve()}")
    while True:
        connection, _ = listener.accept()
        encrypted = context.wrap_socket(connection, server_side=True)
        threading.Thread(target=tcp.answer, args=(encrypted,), daemon=True).start()


class Client(tcp.Client):
    """Works over one connection each."""

    def __init__(self, address: str) -> None:
        address, _, folder = address.partition(",")
        super().__init__(address)
        self._context = ssl.create_default_context(cafile=Path(folder) / "ca.pem")

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with (
            socket.create_connection(self._address) as connection,
            self._context.wrap_socket(connection, server_hostname="127.0.0.1") as encrypted,
        ):
            yield encrypted


def main(folder: str) -> None:
    """Serve, and say where in one line."""
    serve(lambda address: print(f"ready on {address}", flush=True), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
