"""The file of the audit log: whole lines, on disk before the answer, and none that is lost."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import join, until
from varserve_service.access import audit
from varserve_service.access.audit import AuditError, AuditLog


class Disk:
    """What the calls of the log do. Each may be told to fail, and writes to stop half-way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.failures: dict[str, int] = {}
        self.room: int | None = None
        for name in ("write", "fdatasync"):
            monkeypatch.setattr(audit.os, name, self._around(name, getattr(os, name)))

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: int, *data: Any) -> Any:
            self.calls.append(name)
            if name == "write" and self.room is not None:
                if not self.room:
                    raise OSError(errno.ENOSPC, "no room")
                data = (data[0][: self.room],)
                self.room -= len(data[0])
            if number := self.failures.get(name):
                raise OSError(number, os.strerror(number))
            return real(file, *data)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def lines(path: Path) -> list[Any]:
    """The numbers of the lines, and the text of those that are not whole."""
    found: list[Any] = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line)["n"])
        except ValueError:
            found.append(line)
    return found


def test_a_line_is_on_disk_before_its_caller_goes_on(tmp_path: Path, disk: Disk) -> None:
    """Written and synced; in ASCII, whatever is in it."""
    log = AuditLog(tmp_path / "audit")
    log.write({"n": 1, "text": "a\u2028\ud800\n"}, done=True)
    assert disk.calls == ["write", "fdatasync"]
    assert (tmp_path / "audit").read_bytes() == b'{"n":1,"text":"a\\u2028\\ud800\\n"}\n'
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o640
    assert log.owed == 0


def test_only_lines_of_what_was_done_are_owed(tmp_path: Path, disk: Disk) -> None:
    """They are written before any other line; what was refused is not written later."""
    log = AuditLog(tmp_path / "audit")
    disk.room = 0
    for number, done in ((1, True), (2, False), (3, True)):
        with pytest.raises(AuditError, match="cannot be written"):
            log.write({"n": number}, done=done)
    assert log.owed == 2
    with pytest.raises(AuditError) as caught:
        log.check()
    assert caught.value.errno == errno.ENOSPC
    assert log.owed == 2
    disk.room = None
    log.write({"n": 4}, done=False)
    assert (lines(tmp_path / "audit"), log.owed) == ([1, 3, 4], 0)


def test_a_check_pays_what_is_owed(tmp_path: Path, disk: Disk) -> None:
    """Once; without anything owed it does not touch the disk."""
    log = AuditLog(tmp_path / "audit")
    disk.failures["fdatasync"] = errno.EIO
    with pytest.raises(AuditError):
        log.write({"n": 1}, done=True)
    disk.failures.clear()
    disk.calls.clear()
    log.check()
    assert disk.calls == ["write", "fdatasync"]
    log.check()
    assert (len(disk.calls), log.owed) == (2, 0)
    assert lines(tmp_path / "audit") == [1, 1]  # it may have been there; it is not lost


def test_a_line_that_was_broken_off_ends_before_the_next(tmp_path: Path, disk: Disk) -> None:
    """Nothing is removed from the file; a failure of which nothing was written breaks no line."""
    log = AuditLog(tmp_path / "audit")
    disk.room = 4
    with pytest.raises(AuditError):
        log.write({"n": 1}, done=True)
    disk.room = 0
    with pytest.raises(AuditError):
        log.write({"n": 2}, done=True)  # the line is still broken
    disk.room = None
    log.write({"n": 3}, done=True)
    assert lines(tmp_path / "audit") == ['{"n"', 1, 2, 3]
    disk.room = 0
    with pytest.raises(AuditError):
        log.write({"n": 4}, done=False)
    disk.room = None
    log.write({"n": 5}, done=True)
    assert lines(tmp_path / "audit") == ['{"n"', 1, 2, 3, 5]


def test_a_write_that_takes_a_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all of it is there."""
    write = os.write
    monkeypatch.setattr(audit.os, "write", lambda file, data: write(file, data[:3]))
    log = AuditLog(tmp_path / "audit")
    for number in (10, 20):
        log.write({"n": number}, done=True)
    assert lines(tmp_path / "audit") == [10, 20]


@pytest.mark.parametrize(
    ("number", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_what_cannot_be_synced(tmp_path: Path, disk: Disk, number: int, fails: bool) -> None:
    """A pipe has nothing to sync; a disk that fails has not got the line."""
    log = AuditLog(tmp_path / "audit")
    disk.failures["fdatasync"] = number
    if fails:
        with pytest.raises(AuditError):
            log.write({"n": 1}, done=True)
    else:
        log.write({"n": 1}, done=True)
    assert log.owed == int(fails)


def test_a_file_that_was_moved_away_is_followed_by_a_new_one(tmp_path: Path, disk: Disk) -> None:
    """The next line goes there, also the rest of what is owed; no descriptor is left."""
    path = tmp_path / "audit"
    log = AuditLog(path)
    log.write({"n": 1}, done=True)
    first = log._file
    log.write({"n": 2}, done=True)
    assert log._file == first
    disk.room = 3
    with pytest.raises(AuditError):
        log.write({"n": 3}, done=True)
    path.rename(tmp_path / "audit.1")
    disk.room = None
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    log.write({"n": 4}, done=True)
    assert lines(path) == [3, 4]
    assert lines(tmp_path / "audit.1") == [1, 2, '{"n']
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    (tmp_path / "audit.1").rename(path)  # over it
    log.write({"n": 5}, done=True)
    assert lines(path)[:2] == [1, 2]
    assert lines(path)[-1] == '{"n{"n":5}'  # of a file that it did not write it knows nothing


def test_lines_that_wait_together_share_a_sync(tmp_path: Path, disk: Disk) -> None:
    """Each caller goes on when its own line is there, or is told why it is not."""
    log = AuditLog(tmp_path / "audit")
    failed: list[int] = []

    def write(number: int) -> None:
        try:
            log.write({"n": number}, done=bool(number % 2))
        except AuditError:
            failed.append(number)

    for room, expected in ((None, [0, 1, 2, 3]), (0, [0, 1, 2, 3])):
        disk.room = room
        disk.calls.clear()
        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        with log._turn:
            for number, thread in enumerate(threads):
                thread.start()
                until(lambda number=number: len(log._queue) == number + 1)
        join(threads)
        if room is None:
            assert (lines(tmp_path / "audit"), failed) == (expected, [])
            assert disk.calls == ["write", "fdatasync"]
        else:
            assert (sorted(failed), log.owed) == (expected, 2)
