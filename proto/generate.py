"""The one place that knows how the Python stubs are made from the .proto files beside this file.

    generate.py DIR            write the stubs into DIR, and remove those whose .proto is gone
    generate.py --check DIR    change nothing; name every stub in DIR that would be written anew

Needs grpcio-tools (requirements/proto.txt) and nothing of this project.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
STUBS = ("varserve/v[0-9]*/__init__.py", "varserve/v[0-9]*/*_pb2*.py*")


def generate(out: Path) -> None:
    """Write every stub below `out`; leave the program with protoc's status when protoc fails."""
    from grpc_tools import protoc

    # grpcio-tools carries the well-known types; protoc finds them only when told where they are.
    well_known_types = Path(protoc.__file__).with_name("_proto")
    sources = sorted(PROTO_ROOT.glob("varserve/*/*.proto"))
    # The plugin writes an empty module for a file without a service.
    services = [path for path in sources if re.search(r"^service ", path.read_text(), re.MULTILINE)]
    for outputs, inputs in (
        (("python_out", "pyi_out"), sources),
        (("grpc_python_out",), services),
    ):
        # The path of a .proto is that of its Python module, so what is written needs no patching.
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTO_ROOT}",
                f"--proto_path={well_known_types}",
                *(f"--{output}={out}" for output in outputs),
                *(path.relative_to(PROTO_ROOT).as_posix() for path in inputs),
            ]
        )
        if status:
            sys.exit(status)
    # protoc leaves the folders without one; a package that says so is found by every tool.
    for folder in {out / path.relative_to(PROTO_ROOT).parent for path in sources}:
        (folder / "__init__.py").write_text(
            '"""Generated from the .proto files by `make proto`."""\n'
        )


def read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in STUBS
        for path in folder.glob(pattern)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the Python stubs, or check them.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("dir", type=Path, help="folder that holds varserve/v1/*_pb2.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary))
        wanted = read(Path(temporary))
    present = read(arguments.dir)
    stale = sorted(
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    )
    for name in stale:
        path = arguments.dir / name
        if arguments.check:
            print(f"stale stub: {path}", file=sys.stderr)
        elif name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[name])
        else:
            path.unlink()
    if arguments.check and stale:
        print("run `make proto` and commit what it writes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
