"""A journal that is not what was written is never taken for one that is."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, refused, value_of
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read

SET = Operation.SET
OPTIONS: dict[str, Any] = {"inline_bytes": 256, "history_commits": 8}
COMMITS = 40
DAMAGES = 60


def make() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("a", np.zeros(8, np.float32)),
            FakeVariable("large", np.zeros(400, np.float32)),
        ]
    )


def write(live: Any, number: int) -> None:
    writes = [Write("a", SET, np.full(8, number, np.float32))]
    if number % 3 == 0:
        writes.append(Write("large", SET, np.full(400, number, np.float32)))
    if number % 3 == 1:
        rows = Rows(np.array([number, 2 * number]))
        writes.append(Write("large", SET, np.full(2, -number, np.float32), rows))
    live.assign(writes, request=WriteRequest(f"r{number}", b""), read_back=Read("a"))


def state(live: Any) -> dict[str, Any]:
    values = {name: value_of(live, name).tolist() for name in ("a", "large")}
    again = live.assign(
        [Write("a", SET, np.zeros(8, np.float32))], request=WriteRequest(f"r{COMMITS - 2}", b"")
    )
    answered = (again.header, again.values["a"].numpy().tolist())
    return {"header": live.header, "values": values, "again": answered}


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory as a crash leaves it: half in the database, half in its write-ahead log."""
    running, image = tmp_path_factory.mktemp("running"), tmp_path_factory.mktemp("crashed") / "d"
    with kept(running, make, **OPTIONS) as (live, journal):
        for number in range(1, COMMITS // 2):
            write(live, number)
        journal._compactor.compact()
        # The thread that compacts waits meanwhile.
        with journal._compactor._working:
            for number in range(COMMITS // 2, COMMITS):
                write(live, number)
            shutil.copytree(running, image)
    return image


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("lock", "log.sqlite3-shm")
    }


def test_what_a_crash_left_is_all_there(crashed: Path, tmp_path: Path) -> None:
    """The image that the others damage is whole, and has something in each kind of file."""
    found = files(crashed)
    sizes = {Path(name).suffix or name: len(data) for name, data in found.items()}
    assert all(sizes.values()), sizes
    assert set(sizes) == {".sqlite3", ".sqlite3-wal", ".safetensors", "models/fake/1/head"}
    shutil.copytree(crashed, tmp_path / "d")
    with kept(tmp_path / "d", make, **OPTIONS) as (live, _):
        assert live.header.revision == COMMITS - 1
        assert value_of(live, "a").tolist() == [COMMITS - 1] * 8


@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_damage_is_refused_or_does_no_harm(crashed: Path, tmp_path: Path, kind: str) -> None:
    """One bit or the end of any file: refused with the file's name, or the state is unaffected.

    Nothing is deleted: with the file put back, everything is there.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    shutil.copytree(crashed, tmp_path / "whole")
    with kept(tmp_path / "whole", make, **OPTIONS) as (live, _):
        expected = state(live)
    whole = files(crashed)
    harmed: set[str] = set()
    for number in range(DAMAGES):
        directory = tmp_path / str(number)
        shutil.copytree(crashed, directory)
        name = chance.choice(list(whole))
        data = bytearray(whole[name])
        at = chance.randrange(len(data))
        if kind == "flip":
            data[at] ^= 1 << chance.randrange(8)
        else:
            del data[at:]
        (directory / name).write_bytes(data)
        said = None
        try:
            with kept(directory, make, **OPTIONS) as (live, _):
                assert state(live) == expected, f"{name} at {at}"
        except JournalError as error:
            said = str(error)
        if said is not None:
            harmed.add(name)
            assert str((directory / name).parent) in said, f"{name} at {at}: {said}"
            assert set(files(directory)) >= set(whole) - {"models/fake/1/log.sqlite3-wal"}
            (directory / name).write_bytes(whole[name])
            with kept(directory, make, **OPTIONS) as (live, _):
                assert state(live) == expected, f"{name} at {at}, put back"
        shutil.rmtree(directory)
    assert len(harmed) > len(whole) // 2, harmed


def test_a_log_that_is_gone_is_refused(crashed: Path, tmp_path: Path) -> None:
    """Without the database, without its write-ahead log, without a payload, without the head."""
    for name in files(crashed):
        directory = tmp_path / name.replace("/", "-")
        shutil.copytree(crashed, directory)
        (directory / name).unlink()
        said = refused(directory, make)
        assert "damaged" in said, name
        assert str(directory) in said, name


def test_a_row_that_is_gone_is_refused(crashed: Path, tmp_path: Path) -> None:
    """Each row of the base, of the commits and of the state is missed, whole as the file is."""
    log = "models/fake/1/log.sqlite3"
    with closing(sqlite3.connect(f"file:{crashed / log}?mode=ro", uri=True)) as connection:
        found = [
            (table, column, value)
            for table, column in (("base", "path"), ("commits", "revision"), ("state", "rowid"))
            for (value,) in connection.execute(f"SELECT {column} FROM {table}")
        ]
    assert {table for table, _, _ in found} == {"base", "commits", "state"}
    for number, (table, column, value) in enumerate(found):
        directory = tmp_path / str(number)
        shutil.copytree(crashed, directory)
        with closing(sqlite3.connect(directory / log, isolation_level=None)) as connection:
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (value,))
        assert "damaged" in refused(directory, make), (table, value)
