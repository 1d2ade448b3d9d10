"""A model from Azure's storage: `varserve fetch az://` against Azurite, Microsoft's emulator."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fetching.test_fetch import FILES
from tests.packaging.tools import clean_environment, run
from tests.waiting import until

AZURITE = "azurite@3.37.0"
ACCOUNT = "devstoreaccount1"
# The emulator's, which its documentation publishes.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"

pytestmark = [
    pytest.mark.clients,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Azurite needs node and npm"),
]


class Azurite(NamedTuple):
    """The emulator."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What `varserve fetch` finds it by."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.url,
            "AZURE_ALLOW_HTTP": "true",
        }

    def put(self, path: str, data: bytes = b"", **headers: str) -> None:
        """One signed PUT, of a container or a blob, as Microsoft's documentation has it."""
        where, _, query = path.partition("?")
        own = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": VERSION}
        own |= {f"x-ms-{name.replace('_', '-')}": value for name, value in headers.items()}
        named = "\n".join(f"{name}:{own[name]}" for name in sorted(own))
        length = str(len(data)) if data else ""
        kind = "application/octet-stream"
        signed = f"PUT\n\n\n{length}\n\n{kind}\n\n\n\n\n\n\n{named}\n/{ACCOUNT}/{ACCOUNT}/{where}"
        signed += f"\n{query.replace('=', ':')}" if query else ""
        digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        own |= {
            "authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            "content-length": str(len(data)),
            "content-type": kind,
        }
        request = urllib.request.Request(f"{self.url}/{path}", data, own, method="PUT")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 201


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    folder = tmp_path_factory.mktemp("azurite")
    npm = shutil.which("npm")
    assert npm
    run([npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", folder, AZURITE])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            folder / "node_modules" / ".bin" / "azurite-blob",
            *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"),
            *("--skipApiVersionCheck", "--disableTelemetry", "--silent"),
        ],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: _listens(port), seconds=120, pause=0.1)
        yield Azurite(f"http://127.0.0.1:{port}/{ACCOUNT}")
    finally:
        process.kill()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_a_model_comes_from_azure(azurite: Azurite, tmp_path: Path) -> None:
    """All blobs below a prefix, large ones in parts; a container that is not there is said."""
    large = os.urandom(20 << 20)
    files = FILES | {"variables/variables.data-00000-of-00001": large}
    azurite.put("models?restype=container")
    for name, data in files.items():
        azurite.put(f"models/m/1/{name}", data, blob_type="BlockBlob")
    azurite.put("models/m/10/other", b"x", blob_type="BlockBlob")

    def fetch(uri: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "varserve", "fetch", uri, f"{tmp_path}/m", "--json"],
            env=os.environ | azurite.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    result = fetch("az://models/m/1")
    assert result.returncode == 0, result.stderr
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert json.loads(result.stdout)["sha256"] == digests
    for uri in ("az://nowhere/m", "az://models/none"):
        result = fetch(uri)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
