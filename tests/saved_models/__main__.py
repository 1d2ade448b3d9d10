"""`python -m tests.saved_models NAME FOLDER`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tests.saved_models import BUILDERS, build


def main(arguments: list[str]) -> int:
    """`NAME FOLDER`: build one model; `--list`: show the names."""
    if arguments == ["--list"]:
        for name, function in sorted(BUILDERS.items()):
            print(f"{name:20} {function.__doc__}")
        return 0
    if len(arguments) != 2 or arguments[0] not in BUILDERS:
        names = ",".join(sorted(BUILDERS))
        print(f"usage: python -m tests.saved_models {{{names}}} FOLDER", file=sys.stderr)
        return 2
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    print(build(arguments[0], Path(arguments[1])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
