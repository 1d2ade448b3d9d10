"""Run the README's two commands in a new, minimal Debian 12: `make test-fresh`.

A program, not a test: it needs root, debootstrap and the network, and takes as long as `make test`.
The root file system is made in a temporary folder and removed at the end. The last commit of this
repository is cloned into it; uncommitted changes are not part of the run.

How packages are reached is configuration of the machine and not of this project. The new system
gets it from the machine that it is made on: the mirror of Debian from DEBIAN_MIRROR, if that is
set; for pip and uv the environment variables and configuration files that they read here, the files
and folders that these name, the resolver's files, and the trusted certificates.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "make", "git", "ca-certificates")
README_COMMANDS = ("make demo", "make test")

# Environment variables of this machine that say how packages are reached.
PASSED_ON = re.compile(
    r"(PIP|UV)_\w+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(https?|all|no)_proxy",
    re.IGNORECASE,
)
# Files of this machine that say how names are resolved and whom to trust.
SYSTEM_FILES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/local/share/ca-certificates",
)
# A path in the value of a setting, alone or in a file: URL.
LOCAL_PATH = re.compile(r"(?:^|(?<=[\s'\"=,])|(?<=file://))/[^\s'\",]+", re.MULTILINE)


def missing_here() -> list[str]:
    """Whatever this machine lacks to make and enter a root file system."""
    missing = [] if os.geteuid() == 0 else ["root (debootstrap, mount and chroot need it)"]
    for program, package in (
        ("debootstrap", "debootstrap"),
        ("unshare", "util-linux"),
        ("chroot", "coreutils"),
        ("git", "git"),
    ):
        if shutil.which(program) is None:
            missing.append(f"{program} (on Debian: apt-get install {package})")
    return missing


def package_environment() -> dict[str, str]:
    """The variables of this machine that say how packages are reached."""
    return {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}


def configuration_files() -> list[Path]:
    """The configuration files that pip and uv read on this machine."""
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    files = [
        Path(name) for name in re.findall(r"^\s+(/.+), exists: True$", pip.stdout, re.MULTILINE)
    ]
    home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    files += [home / "uv" / "uv.toml", Path("/etc/uv/uv.toml"), Path.home() / ".netrc"]
    return [path for path in files if path.is_file()]


def shared_paths() -> list[Path]:
    """What of this machine must be visible in the root, at the same path, to reach packages."""
    files = configuration_files()
    settings = [*package_environment().values(), *(path.read_text() for path in files)]
    named = [Path(path) for text in settings for path in LOCAL_PATH.findall(text)]
    # The pages of an index in a folder link to files beside it.
    named += [path.parent for path in named if path.name == "simple"]
    paths = {*map(Path, SYSTEM_FILES), *files, *named}
    wanted = sorted(path for path in paths if path.exists())
    return [path for path in wanted if not any(parent in wanted for parent in path.parents)]


def make_root(root: Path) -> None:
    """Make a Debian of the minimal variant with `PACKAGES` in `root`."""
    mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
    include = f"--include={','.join(PACKAGES)}"
    command = ["debootstrap", "--variant=minbase", include, SUITE, str(root), *mirror]
    made = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )
    if made.returncode:
        raise SystemExit(f"debootstrap ended with {made.returncode}:\n{made.stdout[-2000:]}")


def entering(root: Path) -> str:
    """A shell script that mounts what a running system has, in a mount namespace of its own."""
    lines = ["set -e"]
    for name in ("dev", "sys"):
        lines.append(f"mount --rbind /{name} {shlex.quote(str(root / name))}")
    lines.append(f"mount -t proc proc {shlex.quote(str(root / 'proc'))}")
    lines.append(f"mount -t tmpfs tmpfs {shlex.quote(str(root / 'run'))}")
    for path in shared_paths():
        place = root / path.relative_to("/")
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        lines.append(f"mount --bind -o ro {shlex.quote(str(path))} {shlex.quote(str(place))}")
    lines.append(f'exec chroot {shlex.quote(str(root))} "$@"')
    return "\n".join(lines)


def run_in(root: Path, folder: str, command: str) -> int:
    """Run a command line in a folder of the root, with the environment of a first log-in."""
    environment = package_environment() | {
        "HOME": str(Path.home()),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM": os.environ.get("TERM", "dumb"),
    }
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    inside = ["/bin/sh", "-c", f"cd {shlex.quote(folder)} && {command}"]
    entered = subprocess.run(
        [*namespaces, "/bin/sh", "-c", entering(root), "enter", *inside],
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=2 * 3600,
    )
    return entered.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", default=README_COMMANDS, metavar="COMMAND")
    parser.add_argument(
        "--root", type=Path, help="make the root here, or use the one that is here, and keep it"
    )
    arguments = parser.parse_args()
    if missing := missing_here():
        print(
            "make test-fresh needs, and did not find here:", *missing, sep="\n  ", file=sys.stderr
        )
        return 2
    root = arguments.root or Path(tempfile.mkdtemp(prefix="varserve-fresh-"))
    root.chmod(0o755) if root.exists() else root.mkdir(parents=True)
    try:
        if not (root / "usr").exists():
            print(f"== a minimal Debian ({SUITE}) with {', '.join(PACKAGES)}", flush=True)
            make_root(root)
        clone = root / "root" / "varserve"
        shutil.rmtree(clone, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True, timeout=600)
        for command in arguments.commands:
            print(f"== {command}", flush=True)
            started = time.monotonic()
            status = run_in(root, "/root/varserve", command)
            print(
                f"== {command}: status {status} after {time.monotonic() - started:.0f} s",
                flush=True,
            )
            if status:
                return 1
    finally:
        if arguments.root is None:
            shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
