"""What is superseded leaves the disk, and the state stays what it was."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.test_leases import until
from tests.core.test_live_model import refusal
from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, named_by_rows, value_of
from varserve_service.core.arrays.patches import Elements, fold
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.history import History
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Origin, WriteRequest
from varserve_service.core.ports.journal import KeptChange
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read
from varserve_service.journal import SqliteJournal
from varserve_service.journal.compaction import Compactor

SET, ADD = Operation.SET, Operation.ADD
SHAPE = (6, 5, 4)


def random_region(chance: random.Random) -> Region:
    if chance.random() < 0.4:
        count = chance.randrange(SHAPE[0] + 1)
        return Rows(np.array(chance.sample(range(SHAPE[0]), count), np.int64))
    dimensions = []
    for size in SHAPE[: chance.randrange(len(SHAPE) + 1)]:
        start = chance.randrange(size + 1)
        stop = chance.choice([None, chance.randrange(start, size + 1)])
        dimensions.append(Slice(start, stop, chance.randrange(1, 4)))
    return Slices(tuple(dimensions))


def index_of(part: Any) -> Any:
    return part.indices if isinstance(part, Rows) else part.index()


def test_folded_changes_leave_what_the_changes_leave() -> None:
    """Any sequence of regions and whole values, over a value that the folding does not know."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, values = random.Random(seed), np.random.default_rng(seed)
    kinds: set[str] = set()
    for _ in range(500):
        start = values.random(SHAPE)
        expected, changes = start.copy(), []
        for _ in range(chance.randrange(1, 6)):
            if chance.random() < 0.1:
                change = KeptChange("v", None, values.random(SHAPE))
                expected = change.value.copy()
            else:
                part = random_region(chance)
                change = KeptChange("v", part, values.random(expected[index_of(part)].shape))
                expected[index_of(part)] = change.value
            changes.append(change)
            if chance.random() < 0.3:  # a fold of folds
                changes = [KeptChange("v", *fold(changes, SHAPE))]
        folded, found = KeptChange("v", *fold(changes, SHAPE)), start.copy()
        if isinstance(folded.part, Elements):
            found.reshape(-1)[folded.part.indices] = folded.value
        elif folded.part is None:
            found = folded.value
        else:
            found[index_of(folded.part)] = folded.value
        assert found.tolist() == expected.tolist()
        kinds.add(type(folded.part).__name__)
    assert kinds == {"Elements", "NoneType", "Rows", "Slices"}


def model(in_place: bool = False) -> FakeModel:
    return FakeModel(
        [
            FakeVariable("whole", np.zeros(200, np.float32)),
            FakeVariable("regions", np.zeros((20, 3), np.float32), in_place=in_place),
            FakeVariable("both", np.zeros((20, 3), np.float32)),
            FakeVariable("words", np.array([b"", b""], object)),
            FakeVariable("untouched", np.arange(3)),
        ]
    )


def write(live: Any, number: int) -> None:
    rows = Rows(np.array([number % 20, (7 * number + 1) % 20]))
    if rows.indices[0] == rows.indices[1]:
        rows = Rows(rows.indices[:1])
    three = np.full((len(rows.indices), 3), number, np.float32)
    writes = [Write("regions", SET, three, rows), Write("both", SET, three + 1, rows)]
    if number % 4 == 0:
        writes.append(Write("whole", SET, np.full(200, number, np.float32)))
    if number % 5 == 0:
        writes.append(Write("both", SET, np.full((20, 3), number, np.float32)))
    if number % 6 == 0:
        word = np.array([b"%d" % number * number], object)
        writes.append(Write("words", SET, word, Slices((Slice(number % 2, number % 2 + 1),))))
    live.assign(writes, request=WriteRequest(f"r{number}", b""))


def values(live: Any) -> dict[str, Any]:
    names = ("whole", "regions", "both", "words", "untouched")
    return {name: value_of(live, name).tolist() for name in names}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("inline_bytes", [0, 400, 2**20])
def test_a_compacted_journal_gives_the_same_state(
    tmp_path: Path, in_place: bool, inline_bytes: int
) -> None:
    """After every few commits and a restart at each: values, revisions, and what is kept."""
    options: dict[str, Any] = {"inline_bytes": inline_bytes, "history_commits": 5}
    with kept(tmp_path / "plain", lambda: model(in_place)) as (plain, _):
        number = 0
        for _ in range(8):
            with kept(tmp_path / "compacted", lambda: model(in_place), **options) as (
                live,
                journal,
            ):
                assert values(live) == values(plain)
                revisions = [[v.revision for v in m.describe().variables] for m in (live, plain)]
                assert revisions[0] == revisions[1]
                for _ in range(7):
                    number += 1
                    write(live, number)
                    write(plain, number)
                journal._compactor.compact()
                assert journal.horizon == number - 5
        payloads = list((tmp_path / "compacted/models/fake/1/payloads").iterdir())
        named = journal_files(tmp_path / "compacted", lambda: model(in_place))
        assert {path.name for path in payloads} == named
        assert len(payloads) <= 5 + 4


def test_the_record_of_every_commit_stays_when_values_go(tmp_path: Path) -> None:
    """By count alone, in memory and after a restart; values are bounded by their bytes."""

    def make() -> FakeModel:
        return FakeModel([FakeVariable("v", np.zeros(1000, np.float32))])

    def listed(live: LiveModel) -> list[Any]:
        return list(live.timeline.commits(100).commits)

    options = {"history_commits": 8, "history_bytes": 10_000}
    history = History(8, 10_000)
    with kept(tmp_path, make, live=partial(LiveModel, history=history), **options) as (
        live,
        journal,
    ):
        for number in range(1, 13):
            live.assign(
                [Write("v", SET, np.full(1000, number, np.float32))],
                request=WriteRequest(f"r{number}", b""),
                origin=Origin("ann", f"number {number}"),
            )
            if number in (4, 11, 12):
                journal._compactor.compact()
        assert journal.horizon == 10
        before = listed(live)
        assert [commit.revision for commit in before] == list(range(12, 4, -1))
        with journal._database.reading() as connection:
            query = "SELECT revision FROM history ORDER BY revision"
            assert [revision for (revision,) in connection.execute(query)] == list(range(5, 11))
    history = History(8, 10_000)
    with kept(tmp_path, make, live=partial(LiveModel, history=history), **options) as (live, _):
        assert listed(live) == before
        assert live.timeline.commits(1).oldest == 10
        assert refusal(live.revert, 9).reason is Reason.REVISION_COMPACTED


def test_a_first_commit_that_is_too_large_is_the_base(tmp_path: Path) -> None:
    """Nothing is left in the log; its value and its record stay."""

    def make() -> FakeModel:
        return FakeModel([FakeVariable("v", np.zeros(1000, np.float32))])

    with kept(tmp_path, make, history_bytes=3_999) as (live, journal):
        live.assign(
            [Write("v", SET, np.full(1000, 7, np.float32))], origin=Origin("ann", "the first")
        )
        journal._compactor.compact()
        assert journal.horizon == 1
    with kept(tmp_path, make) as (live, _):
        assert value_of(live, "v").tolist() == [7] * 1000
        (commit,) = live.timeline.commits(9).commits
        assert (commit.revision, commit.origin.message) == (1, "the first")


def payloads(directory: Path) -> list[Path]:
    return list((directory / "models/fake/1/payloads").iterdir())


def journal_files(directory: Path, make: Any) -> set[str]:
    with kept(directory, make, history_commits=5) as (_, journal):
        journal._compactor.compact()
        return named_by_rows(journal)


def test_the_disk_stays_within_its_bounds(tmp_path: Path) -> None:
    """Whole values written over and over: the bytes that are kept stop growing, by themselves."""

    def make() -> FakeModel:
        return FakeModel([FakeVariable("v", np.zeros(25_000, np.float32))])

    def on_disk() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    options = {"inline_bytes": 50_000, "history_bytes": 1_000_000, "history_commits": 1_000}
    with kept(tmp_path, make, **options) as (live, journal):
        for number in range(100):
            live.assign([Write("v", SET, np.full(25_000, number, np.float32))])
        journal._compactor.compact()
        assert on_disk() < 1_500_000
        assert len(payloads(tmp_path)) == 11  # ten of the history, one of the base
    with kept(tmp_path, make, **options) as (live, _):
        assert (live.header.revision, value_of(live, "v")[0]) == (100, 99)


@pytest.mark.parametrize(
    ("bound", "reads_back"),
    [
        ({"history_commits": 10}, False),
        ({"history_bytes": 80}, False),
        ({"answer_count": 10}, False),
        ({"answers_bytes": 80}, True),
    ],
)
def test_compaction_is_due_a_tenth_beyond_each_bound(
    tmp_path: Path, bound: dict[str, int], reads_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the tenth itself; afterwards it is not due any more. A start counts what is there."""
    monkeypatch.setattr(Compactor, "wake_when_due", lambda compactor: None)

    def make() -> FakeModel:
        return FakeModel([FakeVariable("v", np.zeros(1, np.float64))])

    def commit(live: LiveModel, number: int) -> None:
        live.assign(
            [Write("v", SET, np.full(1, number, np.float64))],
            request=WriteRequest(f"r{number}", b""),
            read_back=Read("v") if reads_back else None,
        )

    with kept(tmp_path, make, **bound) as (live, journal):
        for number in range(1, 12):
            assert not journal._compactor.is_due()
            commit(live, number)
        assert not journal._compactor.is_due()
    with kept(tmp_path, make, **bound) as (live, journal):
        assert not journal._compactor.is_due()
        commit(live, 12)
        assert journal._compactor.is_due()
    with kept(tmp_path, make, **bound) as (live, journal):
        assert journal._compactor.is_due()
        journal._compactor.compact()
        assert not journal._compactor.is_due()
        commit(live, 13)
        assert not journal._compactor.is_due()
        commit(live, 14)
        assert journal._compactor.is_due()


def test_a_file_of_which_little_is_needed_is_written_anew(tmp_path: Path) -> None:
    """A commit of many variables, all but one of them overwritten, does not keep its whole file."""
    names = [f"v{number}" for number in range(10)]

    def make() -> FakeModel:
        return FakeModel([FakeVariable(name, np.zeros(1000, np.float32)) for name in names])

    options = {"inline_bytes": 100, "history_commits": 1}
    with kept(tmp_path, make, **options) as (live, journal):
        live.assign([Write(name, SET, np.ones(1000, np.float32)) for name in names])
        (whole,) = payloads(tmp_path)
        nbytes = whole.stat().st_size
        for needed, name in zip(range(10, 1, -1), names[1:], strict=True):
            live.assign([Write(name, SET, np.full(1000, 2, np.float32))])
            journal._compactor.compact()
            # The last commit is not in the base yet. Half of it is enough to keep it.
            assert whole.exists() == (2 * 4000 * needed >= nbytes)
        sizes = sum(path.stat().st_size for path in payloads(tmp_path))
        assert sizes < 15 * 4096
    with kept(tmp_path, make, **options) as (live, _):
        assert [value_of(live, name)[7] for name in names] == [1] + [2] * 9


def test_answers_leave_by_count_and_age(tmp_path: Path) -> None:
    """Beyond either bound an id is forgotten on disk as in memory, and only then."""
    options = {"answer_count": 3, "history_commits": 100}

    def ids(**options: Any) -> list[str]:
        with kept(tmp_path, model, **options) as (_, journal):
            journal._compactor.compact()
            with journal._database.reading() as connection:
                rows = connection.execute("SELECT record FROM answers ORDER BY revision")
                return [row[0].split(b'"id":"')[1].split(b'"')[0].decode() for row in rows]

    with kept(tmp_path, model, **options) as (live, _):
        for number in range(1, 6):
            write(live, number)
    assert ids(**options) == ["r3", "r4", "r5"]
    assert ids(answer_age=0.000001) == []


def test_no_subject_s_ids_are_pushed_off_the_disk_by_another_s(tmp_path: Path) -> None:
    """Of too many answers the oldest of whoever has the most go: the others outlive a restart."""
    options = {"answer_count": 4, "history_commits": 100}

    def put(live: LiveModel, subject: str, name: str) -> int:
        request = WriteRequest(name, b"", subject)
        value = np.full(200, 1, np.float32)
        return live.assign([Write("whole", SET, value)], request=request).header.revision

    with kept(tmp_path, model, **options) as (live, journal):
        first = put(live, "quiet", "r")
        for number in range(20):
            last = put(live, "flood", f"{number}")
        journal._compactor.compact()
    with kept(tmp_path, model, **options) as (live, _):
        assert (put(live, "quiet", "r"), put(live, "flood", "19")) == (first, last)
        assert put(live, "flood", "0") == last + 1


def test_the_bytes_of_answers_have_a_bound_on_disk(tmp_path: Path) -> None:
    """As in memory: the oldest large ones go, by themselves, and that those writes were done stays.

    A client makes an id for every write, so what a function gives would be kept 10,000 times.
    """
    options: dict[str, Any] = {"answers_bytes": 4_000, "history_commits": 100}

    def make() -> FakeModel:
        return FakeModel([FakeVariable("v", np.zeros(250, np.float32))])

    def asked(live: LiveModel, number: int) -> list[float]:
        write = [Write("v", ADD, np.ones(250, np.float32))]
        request = WriteRequest(f"r{number}", b"")
        answer = live.assign(write, request=request, read_back=Read("v"))
        return answer.values["v"].numpy().tolist()[:1]

    def on_disk(journal: SqliteJournal) -> int:
        with journal._database.reading() as connection:
            (found,) = connection.execute("SELECT sum(length(payload)) FROM answers").fetchone()
        return int(found)

    with kept(tmp_path, make, **options) as (live, journal):
        for number in range(1, 21):
            assert asked(live, number) == [number]
        until(lambda: on_disk(journal) <= 4_400)
    with kept(tmp_path, make, **options) as (live, journal):
        assert [asked(live, number) for number in (18, 19, 20)] == [[18], [19], [20]]
        for number in (1, 10):
            with pytest.raises(RequestError) as caught:
                asked(live, number)
            assert caught.value.reason is Reason.ANSWER_NOT_KEPT
        assert live.header.revision == 20
        assert asked(live, 21) == [21]
        journal._compactor.compact()
        assert on_disk(journal) <= 4_000


def test_a_crash_at_any_step_of_a_compaction_is_harmless(tmp_path: Path) -> None:
    """The disk as it is before the transaction, after it, and after the files are gone."""

    options: dict[str, Any] = {"inline_bytes": 100, "history_commits": 3}
    running = tmp_path / "running"
    images = 0
    with kept(running, model, **options) as (live, journal):
        with journal._compactor._working:
            for number in range(1, 20):
                write(live, number)
            expected = values(live)
        files, database = journal._files, journal._database
        for step in ("write", "remove", "checkpoint"):
            owner: Any = database if step == "checkpoint" else files
            real = getattr(owner, step)

            def around(*arguments: Any, step: str = step, real: Any = real) -> Any:
                nonlocal images
                images += 1
                shutil.copytree(running, tmp_path / f"{images} before {step}")
                result = real(*arguments)
                shutil.copytree(running, tmp_path / f"{images} after {step}")
                return result

            setattr(owner, step, around)
        journal._compactor.compact()
    assert images >= 3
    for image in tmp_path.iterdir():
        with kept(image, model, **options) as (live, journal):
            assert values(live) == expected, image.name
            assert live.header.revision == 19
            journal._compactor.compact()
            assert values(live) == expected


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("inline_bytes", [0, 256 * 2**10])
def test_commits_go_on_from_a_base_of_single_elements(
    tmp_path: Path, in_place: bool, inline_bytes: int
) -> None:
    """A base of overlapping regions and later commits on it come back, with what they replaced.

    The later ones write rows, a slice and the whole; each can be reverted after the restart.
    """

    def make() -> FakeModel:
        array = np.arange(20, dtype=np.float32).reshape(5, 4)
        return FakeModel([FakeVariable("v", array, in_place=in_place)])

    def regions() -> list[Write]:
        column, corner = Slices((Slice(), Slice(1, 2))), Slices((Slice(0, 2), Slice(0, 2)))
        rows = Rows(np.array([4, 1]))
        return [
            Write("v", SET, np.full((5, 1), 50, np.float32), column),
            Write("v", SET, np.full((2, 2), 60, np.float32), corner),
            Write("v", SET, np.full((2, 4), 70, np.float32), rows),
            Write("v", SET, np.full((5, 1), 80, np.float32), column),
            Write("v", SET, np.full((5, 4), 90, np.float32)),
        ]

    options = {"inline_bytes": inline_bytes}
    states: list[Any] = [value_of(LiveModel(make()), "v").tolist()]
    with kept(tmp_path, make, history_commits=3, **options) as (live, journal):
        for write in regions():
            live.assign([write])
            states.append(value_of(live, "v").tolist())
        journal._compactor.compact()
        assert journal.horizon == 2
        ((part,),) = [[base.change.part for base in journal.base()]]
        assert isinstance(part, Elements)
    for _ in range(2):
        with kept(tmp_path, make, **options) as (live, _):
            assert live.header.revision == 5
            for revision in range(2, 6):
                (entry,) = live.timeline.read([Read("v")], revision).entries
                assert entry.value.numpy().tolist() == states[revision]
    with kept(tmp_path, make, **options) as (live, _):
        live.revert(3)
        assert value_of(live, "v").tolist() == states[3]
        live.revert(2)
        assert value_of(live, "v").tolist() == states[2]
    with kept(tmp_path, make, **options) as (live, _):
        assert value_of(live, "v").tolist() == states[2]
