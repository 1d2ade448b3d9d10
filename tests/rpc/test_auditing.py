"""What is done, tried or denied leaves a line, on disk before it is answered, and never a value."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeVariable, Gate
from tests.rpc.models import counter, strings
from tests.rpc.roles import POLICY, alpha, beta
from tests.rpc.test_identity import Claimed
from tests.serving import serve_here
from tests.waiting import until, until_async
from varserve_service.access.audit import AuditError, AuditLog
from varserve_service.access.policy_file import read_policy
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access, Auditing
from varserve_service.rpc.authorization import refusal_sampler
from varserve_service.rpc.calls.audit_record import AuditRecord
from varserve_service.rpc.calls.observers import CallObserver

V = np.arange(3, dtype=np.float32)


class Place:
    """A service that audits, and its log."""

    def __init__(self, path: Path, address: str) -> None:
        self.path = path
        self.address = address

    @property
    def lines(self) -> list[dict[str, Any]]:
        data = self.path.read_bytes()
        assert data.isascii()
        assert data.endswith(b"\n") or not data
        return [json.loads(line) for line in data.decode().split("\n")[:-1]]

    def connect(self, name: str, **options: Any) -> varserve.Client:
        return varserve.connect(self.address, metadata=[("name", name)], **options)


@contextmanager
def auditing(
    path: Path,
    *models: LiveModel,
    policy: bytes | None = None,
    log: AuditLog | None = None,
    observers: Sequence[CallObserver] = (),
    **options: object,
) -> Iterator[Place]:
    rules = None if policy is None else read_policy(policy)
    access = Access(
        authenticator=Claimed(),
        policy=None if rules is None else lambda: rules,
        auditing=Auditing(log or AuditLog(path)),
    )
    with serve_here(*models, access=access, observers=observers, **options) as address:
        yield Place(path, address)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    words = FakeVariable("words", strings(b"a", b""))
    with auditing(tmp_path / "audit", counter(words)) as found:
        yield found


def test_every_write_leaves_a_line(place: Place) -> None:
    """Each kind of write tells who, what, from and to which revision, and what the bytes are."""
    with place.connect("ann") as client:
        client.assign_variable("counter", "v", V, request_id="r1")
        client.assign_variables("counter", {"v": V + 1, "count": np.int64(5)}, request_id="r2")
        client.assign_variable("counter", "v", V[:1] + 9, region=slice(1, 2), request_id="r3")
        client.run_function("counter", "add", {"n": np.int64(2)}, request_id="r4")
        client.stream_run_function("counter", "add", {"n": np.int64(3)}, request_id="r5")
        client.revert_commits("counter", 1, ["v"], request_id="r6")
        lease = client.assign_variable("counter", "v", V, lease_seconds=1000, request_id="r7")
        client.revoke_lease("counter", lease.revision)
        client.assign_variable("counter", "words", strings(b"xy", b"z"), request_id="r8")
        epoch = client.get_model("counter").header.epoch
        summaries = client.model("counter").summaries(["v", "words"])
        # What changes nothing leaves none.
        client.read_variable("counter", "v")
        client.run_function("counter", "total", {"x": V})
    lines = place.lines
    told = [
        (each["method"], each["revision_after"], each["request_id"], sorted(each["variables"]))
        for each in lines
    ]
    assert told == [
        ("AssignVariable", 1, "r1", ["v"]),
        ("AssignVariables", 2, "r2", ["count", "v"]),
        ("AssignVariable", 3, "r3", ["v"]),
        ("RunFunction", 4, "r4", ["count"]),
        ("StreamRunFunction", 5, "r5", ["count"]),
        ("RevertCommits", 6, "r6", ["v"]),
        ("AssignVariable", 7, "r7", ["v"]),
        ("RevokeLease", 8, "", ["v"]),
        ("AssignVariable", 9, "r8", ["words"]),
    ]
    for each in lines:
        assert (each["outcome"], each["subject"], each["model"]) == ("OK", "ann", "counter")
        assert (each["epoch"], each["version"]) == (epoch, 1)
        assert each["revision_before"] == each["revision_after"] - 1
        assert each["peer"].startswith("ipv4:127.0.0.1:")
    hashes = [{c["variable"]: c["content_hash"] for c in each["changes"]} for each in lines]
    assert hashes[0] == {"v": varserve.content_hash(V)}
    assert hashes[1] == {
        "v": varserve.content_hash(V + 1),
        "count": varserve.content_hash(np.int64(5)),
    }
    assert hashes[2] == {"v": varserve.content_hash(V[:1] + 9)}
    assert lines[2]["changes"][0] | {"content_hash": ""} == {
        "variable": "v",
        "path": "v",
        "whole": False,
        "dtype": "float32",
        "shape": [1],
        "content_hash": "",
    }
    assert hashes[3] == {"count": varserve.content_hash(np.int64(7))}
    assert lines[3]["function"] == "add"
    assert hashes[5] == hashes[6] == {"v": varserve.content_hash(V)}
    assert hashes[8] == {"words": varserve.content_hash(np.array([b"xy", b"z"], object))}
    # An operator finds the line by the hash that `varserve summary` shows.
    assert hashes[8]["words"] == summaries["words"].content_hash


def test_who_hangs_up_leaves_a_line(tmp_path: Path) -> None:
    """A call that is given up while it is done is told of, and its commit as every other."""
    gate = Gate()
    wait = FakeFunction("wait", lambda: gate() or {}, writes=("v",))  # type: ignore[func-returns-value]
    with auditing(tmp_path / "audit", counter(functions=(wait,))) as place:
        with place.connect("ann", retries=0) as client:
            with pytest.raises(varserve.DeadlineExceeded):
                client.run_function("counter", "wait", {}, timeout=2)
            assert gate.reached.wait(30)
            until(lambda: len(place.lines) == 1)
            gate.opened.set()
            until(lambda: len(place.lines) == 2)
        assert [line["outcome"] for line in place.lines] == ["CANCELLED", "OK"]
        assert {line["subject"] for line in place.lines} == {"ann"}


def test_what_failed_or_was_done_before(place: Place) -> None:
    """A write that fails tells its reason; one that comes again tells that it changed nothing."""
    with place.connect("ann", retries=0) as client:
        client.assign_variable("counter", "v", V, request_id="r1")
        client.assign_variable("counter", "v", V, request_id="r1")
        with pytest.raises(varserve.ShapeMismatch):
            client.assign_variable("counter", "v", np.zeros(7, np.float32), request_id="r2")
        with pytest.raises(varserve.VariableNotFound):
            client.assign_variable("counter", "absent", V, request_id="r3")
        with pytest.raises(varserve.RevisionMismatch):
            client.run_function(
                "counter", "add", {"n": np.int64(1)}, if_model_revision_match=7, request_id="r4"
            )
        with pytest.raises(varserve.VariableNotFound):
            client.read_variable("counter", "absent")
    told = [(each["outcome"], each["request_id"], "changes" in each) for each in place.lines]
    assert told == [
        ("OK", "r1", True),
        ("OK", "r1", False),
        ("SHAPE_MISMATCH", "r2", False),
        ("VARIABLE_NOT_FOUND", "r3", False),
        ("REVISION_MISMATCH", "r4", False),
    ]


def test_every_denial_leaves_a_line(tmp_path: Path) -> None:
    """A denied or unauthenticated call is recorded with what it named, reads included."""
    with auditing(tmp_path / "audit", alpha(), beta(), policy=POLICY) as place:
        with place.connect("reader", retries=0) as client:
            client.read_variable("alpha", "head/bias")
            for call in (
                lambda: client.read_variable("alpha", "secret"),
                lambda: client.assign_variable("alpha", "head/bias", V),
                lambda: client.run_function("alpha", "bump", {"n": np.int64(1)}),
                lambda: client.get_model("beta"),
                lambda: client.list_commits("alpha"),
            ):
                with pytest.raises(varserve.AccessDenied):
                    call()
        with (
            varserve.connect(place.address, retries=0) as client,
            pytest.raises(varserve.Unauthenticated),
        ):
            client.models()
        told = [
            (line["outcome"], line["subject"], line["method"], line.get("model"))
            for line in place.lines
        ]
        assert told == [
            ("PERMISSION_DENIED", "reader", "ReadVariable", "alpha"),
            ("PERMISSION_DENIED", "reader", "AssignVariable", "alpha"),
            ("PERMISSION_DENIED", "reader", "RunFunction", "alpha"),
            ("PERMISSION_DENIED", "reader", "GetModel", "beta"),
            ("PERMISSION_DENIED", "reader", "ListCommits", "alpha"),
            ("UNAUTHENTICATED", "", "ListModels", None),
        ]
        assert place.lines[0]["variables"] == ["secret"]
        assert place.lines[2]["function"] == "bump"


@pytest.mark.parametrize(
    "name",
    [
        'x\n{"outcome":"OK","subject":"root"}',
        "x\r\ny",
        "\x00\x1b[2J\x7f",
        "\u2028\u2029\x85",
        '"},{"',
        "é" * 400,
    ],
)
def test_nobody_writes_a_line_of_his_own(tmp_path: Path, name: str) -> None:
    """Whatever a caller names, one call is one line of ASCII that contains the name."""
    with auditing(tmp_path / "audit", alpha(), policy=POLICY) as place:
        with place.connect("nobody", retries=0) as client:
            for call in (
                lambda: client.read_variable(name, name),
                lambda: client.assign_variable(name, name, V, request_id=name[:20], message=name),
                lambda: client.run_function(name, name, {}, request_id=name[:20]),
            ):
                with pytest.raises(varserve.AccessDenied):
                    call()
        lines = place.lines  # which checks that each is one
        assert len(lines) == 3
        assert [each["model"] for each in lines] == [name[:200]] * 3
        assert lines[0]["variables"] == lines[1]["variables"] == [name[:200]]


def test_the_file_is_moved_away(place: Place, tmp_path: Path) -> None:
    """After a rotation lines go into a new file, and none is lost or doubled."""
    moved = tmp_path / "audit.1"
    with place.connect("ann") as client:
        for number in range(6):
            if number == 3:
                place.path.rename(moved)
            client.assign_variable("counter", "v", V, request_id=f"r{number}")
    before = [json.loads(line)["request_id"] for line in moved.read_text().splitlines()]
    assert before == ["r0", "r1", "r2"]
    assert [each["request_id"] for each in place.lines] == ["r3", "r4", "r5"]


class Disk:
    """Lets writes of the audit log fail, at once or in the middle of a line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.full = False
        self.room = 0
        self._path = path
        self._write = os.write
        monkeypatch.setattr("varserve_service.access.audit.os.write", self.write)

    def write(self, file: int, data: Any) -> int:
        if not self.full:
            return self._write(file, data)
        if self.room:
            room, self.room = self.room, 0
            return self._write(file, data[:room])
        raise OSError(errno.ENOSPC, "no space left on device")


@pytest.mark.parametrize("room", [0, 17])
def test_what_cannot_be_audited_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """A commit whose line fails is not acknowledged, and until it is there nothing is changed."""
    disk = Disk(monkeypatch, tmp_path / "audit")
    with auditing(tmp_path / "audit", counter()) as place, place.connect("ann", retries=0) as ann:
        ann.assign_variable("counter", "v", V, request_id="r0")
        disk.full, disk.room = True, room
        with pytest.raises(varserve.AuditLogUnavailable) as caught:
            ann.assign_variable("counter", "v", V + 1, request_id="r1")
        assert caught.value.revision == 2
        for _ in range(2):
            with pytest.raises(varserve.AuditLogUnavailable) as caught:
                ann.assign_variable("counter", "v", V + 2, request_id="r2")
            assert caught.value.revision is None
        # Reading goes on, and what was done can be seen.
        np.testing.assert_array_equal(ann.read_variable("counter", "v").value, V + 1)
        disk.full = False
        assert ann.assign_variable("counter", "v", V + 1, request_id="r1").revision == 2
        assert ann.assign_variable("counter", "v", V + 2, request_id="r2").revision == 3
    lines = []
    for line in (tmp_path / "audit").read_text().split("\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            assert room, line  # the start of a line that was cut off, alone on its own
    told = [(each["request_id"], each.get("revision_after")) for each in lines]
    assert told == [("r0", 1), ("r1", 2), ("r1", None), ("r2", 3)]


def test_a_refusal_that_cannot_be_audited_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller hears why it was refused, and nothing is owed."""
    disk = Disk(monkeypatch, tmp_path / "audit")
    policy = b"rules:\n  - {subjects: [ann], verbs: [list], models: ['*']}\n"
    with auditing(tmp_path / "audit", counter(), policy=policy) as place:
        with place.connect("ann", retries=0) as ann:
            disk.full = True
            with pytest.raises(varserve.AccessDenied):
                ann.assign_variable("counter", "v", V)
            disk.full = False
            with pytest.raises(varserve.AccessDenied):
                ann.assign_variable("counter", "v", V)
        assert [line["outcome"] for line in place.lines] == ["PERMISSION_DENIED"]


def test_the_client_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write whose line fails for a moment is acknowledged once it is audited, and done once."""
    disk = Disk(monkeypatch, tmp_path / "audit")
    with auditing(tmp_path / "audit", counter()) as place, place.connect("ann") as ann:
        disk.full = True
        threading.Timer(0.2, lambda: setattr(disk, "full", False)).start()
        commit = ann.model("counter").functions["add"](n=np.int64(1))
        assert commit.revision == 1
        assert ann.read_variable("counter", "count").value == 1


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    """Lines of many threads are all there, once, and each whole."""
    log = AuditLog(tmp_path / "audit")
    start = threading.Barrier(16)

    def write(thread: int) -> None:
        start.wait(30)
        for number in range(100):
            log.write({"line": [thread, number], "text": "x" * 200}, done=True)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = [json.loads(line)["line"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert sorted(lines) == [[thread, number] for thread in range(16) for number in range(100)]
    for thread in range(16):  # of one thread, in its order
        own = [number for t, number in lines if t == thread]
        assert own == sorted(own)


def test_a_pipe_is_not_synced(tmp_path: Path) -> None:
    """It cannot be; its reader has the line."""
    path = tmp_path / "audit"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AuditLog(path)
    log.write({"line": 1}, done=True)
    assert os.read(reader, 100) == b'{"line":1}\n'
    os.close(reader)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_line_that_is_not_on_disk_is_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """When the sync fails, it is written once more before anything else."""
    log = AuditLog(tmp_path / "audit")

    def fail(file: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as disk:
        disk.setattr("varserve_service.access.audit.os.fdatasync", fail)
        with pytest.raises(AuditError):
            log.write({"line": 1}, done=True)
    assert log.owed == 1
    log.write({"line": 2}, done=True)
    assert log.owed == 0
    assert (tmp_path / "audit").read_text().splitlines()[-2:] == ['{"line":1}', '{"line":2}']


def test_a_denial_is_not_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of what was only refused are not kept: callers cannot fill memory with them."""
    log = AuditLog(tmp_path / "audit")
    disk = Disk(monkeypatch, tmp_path / "audit")
    disk.full = True
    for _ in range(10):
        with pytest.raises(AuditError):
            log.write({}, done=False)
    assert log.owed == 0
    log.check()


def test_refusals_of_strangers_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 calls without a credential a few have lines of their own, and one line sums up the
    others; a denial of somebody who is known always has one.
    """
    monkeypatch.setattr(refusal_sampler, "_SUMMARY_SECONDS", 1.0)
    with auditing(tmp_path / "audit", counter(), policy=POLICY) as place:
        with (
            varserve.connect(place.address, retries=0) as stranger,
            place.connect("nobody", retries=0) as known,
        ):
            for _ in range(500):
                with pytest.raises(varserve.Unauthenticated):
                    stranger.list_models()
            for _ in range(30):
                with pytest.raises(varserve.AccessDenied):
                    known.assign_variable("counter", "v", V)

        def summed() -> int:
            return sum(line.get("count", 1) for line in strangers())

        def strangers() -> list[dict[str, Any]]:
            return [line for line in place.lines if line["outcome"] == "UNAUTHENTICATED"]

        until(lambda: summed() == 500)
        assert 1 <= len(strangers()) <= 100
        assert len([line for line in place.lines if line["outcome"] == "PERMISSION_DENIED"]) == 30


def test_an_end_of_a_lease_by_itself(tmp_path: Path) -> None:
    """What the service itself puts back is told of as well, by nobody's name."""
    audit = Auditing(AuditLog(tmp_path / "audit"))
    ended = threading.Event()

    def expired(header: Any, commit: Any) -> None:
        audit.expired(header, commit)
        ended.set()

    live = counter(on_expiry=expired)
    with (
        serve_here(live, access=Access(auditing=audit)) as address,
        varserve.connect(address) as client,
    ):
        client.assign_variable("counter", "v", V, lease_seconds=0.05)
        assert ended.wait(30)
    lines = Place(tmp_path / "audit", address).lines
    assert [(each["method"], each["subject"], each["revision_after"]) for each in lines] == [
        ("AssignVariable", "", 1),
        ("LeaseExpired", "", 2),
    ]


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    """It is told at the start, by its name."""
    with pytest.raises(OSError, match="absent"):
        AuditLog(tmp_path / "absent" / "audit")


async def test_lines_that_are_written_behind_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was done, they are owed when the disk is full; of refusals they are not.

    A commit that wrote its own line needs no other, and a line that fails ends nothing.
    """
    log = AuditLog(tmp_path / "audit")
    audit = Auditing(log)
    tried: list[str] = []

    def noted(record: Any, *, done: bool) -> None:
        try:
            write(record, done=done)
        finally:
            tried.append(record["outcome"])

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    write = log.write
    monkeypatch.setattr(log, "write", noted)
    with monkeypatch.context() as disk:
        disk.setattr("varserve_service.access.audit.os.write", no_room)
        audit.cut_off(AuditRecord({"method": "AssignVariable"}, written=True))
        audit._sum_up(7, 10.0)
        gone = AuditRecord({"method": "AssignVariable"}, {"model": "m"}, {"label": "canary"})
        audit.cut_off(gone)
        await until_async(lambda: len(tried) == 2)
    assert sorted(tried) == ["CANCELLED", "UNAUTHENTICATED"]
    assert log.owed == 1
    log.check()
    (line,) = [json.loads(each) for each in (tmp_path / "audit").read_text().splitlines()]
    assert (line["outcome"], line["model"], line["label"]) == ("CANCELLED", "m", "canary")
