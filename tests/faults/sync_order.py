"""What a disk holds after each call of a process, judged from a trace of its system calls.

The disk is the worst that the standards allow: content is durable once its file was synced, a name
once its folder was. A sync of anything else makes nothing durable, nor does one of a folder by
SQLite, which ignores its failure: it opens folders without O_DIRECTORY.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

CALLS = (
    *("open", "openat", "mkdir", "mkdirat", "rename", "renameat", "renameat2"),
    *("unlink", "unlinkat", "write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate"),
    *("fsync", "fdatasync"),
)
STRACE = ("-f", "-qq", "-y", "-s", "64", "-e", f"trace={','.join(CALLS)}")

_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_DESCRIPTOR = re.compile(r"^(\d+)<([^>]*)>")
_QUOTED = re.compile(r'"([^"]*)"')
_ANSWERS = ("ready", "ack")
# Names that nothing depends on after a crash.
_NOT_KEPT = ("lock", "-shm")


class Disk:
    """The state in a folder, call by call; `problems` are the broken rules."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: set[Path] = set()
        self._folders = {root.parent}
        self._unsynced: set[Path] = set()  # files whose content is not durable
        self._made: defaultdict[Path, set[str]] = defaultdict(set)  # names, by folder
        self._removed: defaultdict[Path, set[str]] = defaultdict(set)
        self._moved: list[tuple[Path, Path]] = []  # from one folder to another
        self.problems: list[str] = []
        self.answers = 0
        self.syncs = 0
        self._folder_descriptors: set[int] = set()

    def _rule(self, what: str, holds: bool) -> None:
        if not holds and what not in self.problems:
            self.problems.append(what)

    def _is_state(self, path: Path) -> bool:
        return path == self._root or self._root in path.parents

    def open(self, path: Path, flags: str, descriptor: int) -> None:
        self._folder_descriptors.discard(descriptor)
        if "O_DIRECTORY" in flags:
            self._folder_descriptors.add(descriptor)
        if not self._is_state(path) or "O_DIRECTORY" in flags:
            return
        if path not in self._files and "O_CREAT" in flags:
            self._files.add(path)
            self._made[path.parent].add(path.name)
            self._removed[path.parent].discard(path.name)
        elif "O_TRUNC" in flags:
            self._unsynced.add(path)

    def make_folder(self, path: Path) -> None:
        if self._is_state(path):
            self._folders.add(path)
            self._made[path.parent].add(path.name)

    def write(self, path: Path) -> None:
        if not self._is_state(path):
            return
        if path.name == "log.sqlite3-wal" and path not in self._unsynced:
            payloads = path.parent / "payloads"
            self._rule(
                "values are durable before the row that names them",
                not self._made[payloads]
                and not any(file.parent == payloads for file in self._unsynced),
            )
            self._rule("the names of the log are durable first", not self._made[path.parent])
        if path.name != "head":  # whose content is never waited for
            self._unsynced.add(path)

    def truncate(self, path: Path) -> None:
        if path.name == "log.sqlite3-wal":
            database = path.with_name("log.sqlite3")
            self._rule(
                "the database is durable before its write-ahead log is emptied",
                database not in self._unsynced,
            )
            self._unsynced.discard(path)  # what may come back is in the database, durably
        else:
            self.write(path)

    def rename(self, path: Path, to: Path) -> None:
        if not self._is_state(to):
            return
        if path.name.endswith(".new"):
            self._rule(f"{to.name} is durable before it has its name", path not in self._unsynced)
        if to.name == "log.sqlite3":
            made = self._made[to.parent] - {
                name for name in self._made[to.parent] if ".new" in name
            }
            self._rule("the head is durable before there is a log", not made)

        def moved(old: Path) -> Path:
            return to / old.relative_to(path) if old == path or path in old.parents else old

        self._files = {moved(file) for file in self._files}
        self._folders = {moved(folder) for folder in self._folders}
        self._unsynced = {moved(file) for file in self._unsynced}
        for names in (self._made, self._removed):
            for folder in list(names):
                if moved(folder) != folder:
                    names[moved(folder)] |= names.pop(folder)
        self._made[path.parent].discard(path.name)
        self._removed[path.parent].add(path.name)
        self._made[to.parent].add(to.name)
        if path.parent != to.parent:
            self._moved.append((path, to))

    def unlink(self, path: Path) -> None:
        if not self._is_state(path):
            return
        if path.suffix == ".safetensors" and path in self._files:
            log = path.parent.parent / "log.sqlite3-wal"
            self._rule("a value is removed once no durable row names it", log not in self._unsynced)
        self._files.discard(path)
        self._unsynced.discard(path)
        self._made[path.parent].discard(path.name)
        self._removed[path.parent].add(path.name)

    def sync(self, path: Path, descriptor: int) -> None:
        if path in self._folders and descriptor in self._folder_descriptors:
            self._made[path].clear()
            self._removed[path].clear()
            for source, target in self._moved:
                self._rule(
                    "a folder has its new name before it loses its old one",
                    source.parent != path or target.name not in self._made[target.parent],
                )
        self._unsynced.discard(path)
        self.syncs += self._is_state(path)

    def answer(self) -> None:
        """Whatever was told so far is durable."""
        self.answers += 1
        unsynced = {path for path in self._unsynced if not path.name.endswith(_NOT_KEPT)}
        self._rule("what was answered is durable", not unsynced)
        for folder, names in self._made.items():
            made = {name for name in names if not name.endswith(_NOT_KEPT)}
            self._rule(f"names in {folder.name} are durable", not made)
        for folder, names in self._removed.items():
            # SQLite removes a write-ahead log when the database has all of it, durably.
            removed = {name for name in names if not name.endswith((*_NOT_KEPT, "-wal"))}
            # Files that nobody needs any more, and what the making of a file leaves, may come back.
            harmless = folder.name == "payloads" or all(".new" in name for name in removed)
            self._rule(f"names gone from {folder.name} are gone for good", harmless or not removed)


def judge(trace: Iterable[str], root: Path) -> Disk:
    """The disk after a whole trace."""
    disk = Disk(root)
    for name, arguments, result in _calls(trace):
        path = _path(arguments)
        match name:
            case "open" | "openat":
                disk.open(path, arguments, result)
            case "mkdir" | "mkdirat":
                disk.make_folder(path)
            case "rename" | "renameat" | "renameat2":
                disk.rename(*map(Path, _QUOTED.findall(arguments)[:2]))
            case "unlink" | "unlinkat":
                disk.unlink(path)
            case "ftruncate":
                disk.truncate(path)
            case "fsync" | "fdatasync":
                disk.sync(path, int(arguments.split("<")[0]))
            case "writev" if arguments.startswith("1<"):
                if _QUOTED.findall(arguments)[0].startswith(_ANSWERS):
                    disk.answer()
            case _:
                disk.write(path)
    return disk


def _calls(trace: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """The calls that succeeded."""
    for line in trace:
        match = _LINE.match(line)
        if match is not None and int(match[3]) >= 0:
            yield match[1], match[2], int(match[3])


def _path(arguments: str) -> Path:
    """The file that a call is about: by its descriptor, or by its name."""
    if match := _DESCRIPTOR.match(arguments):
        return Path(match[2])
    quoted: Sequence[str] = _QUOTED.findall(arguments)
    return Path(quoted[0]) if quoted else Path()
