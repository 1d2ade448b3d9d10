"""varserve under TLS: `python -m benchmarks.sides.encrypted MODELS` serves SavedModels in a folder.

The address is followed by the folder of the certificate, after a comma.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import varserve
from benchmarks.model import BENCH
from benchmarks.sides import ours, tls


def serve(models: Path) -> None:
    folder = models / "tls"
    tls.make_certificate(folder)
    command = [sys.executable, "-m", "varserve_service", "serve", "--log-level", "warning"]
    command += ["--port", "0", "--lane-port", "0", "--model", f"{BENCH}={models / BENCH}"]
    command += ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        address = service.stdout.readline().split()[-1]
        print(f"ready on {address},{folder}", flush=True)


class Client(ours.Client):
    """varserve's works, under TLS."""

    def __init__(self, address: str) -> None:
        address, _, folder = address.partition(",")
        super().__init__(address, tls=varserve.Tls(ca=Path(folder) / "ca.pem"))


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve())
