"""Writes the descriptors of the foreign contracts in facades/ as one FileDescriptorSet.

    describe_facades.py FILE            write FILE
    describe_facades.py --check FILE    change nothing; fail when FILE would be written anew

The service makes its messages from that file in a pool of its own: stubs of the same names, which
the packages of those projects bring, would collide with ours in one process. Needs grpcio-tools
(requirements/proto.txt).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent


def described() -> bytes:
    from grpc_tools import protoc

    well_known_types = Path(protoc.__file__).with_name("_proto")
    sources = sorted(PROTO_ROOT.glob("facades/*.proto"))
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, "facades.binpb")
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTO_ROOT}",
                f"--proto_path={well_known_types}",
                "--include_imports",
                f"--descriptor_set_out={target}",
                *(path.relative_to(PROTO_ROOT).as_posix() for path in sources),
            ]
        )
        if status:
            sys.exit(status)
        return target.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write the descriptors of facades/, or check them."
    )
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    wanted = described()
    if not arguments.check:
        arguments.file.write_bytes(wanted)
    elif not arguments.file.exists() or arguments.file.read_bytes() != wanted:
        print(
            f"stale: {arguments.file}: run `make proto` and commit what it writes", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
