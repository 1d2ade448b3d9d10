"""What the families declare exists on the sides, and one figure is measured for real."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.sides
from benchmarks.families import FAMILIES
from benchmarks.figures import Figure, Work, peer, work
from benchmarks.flights import several
from benchmarks.processes import Failed, Process
from benchmarks.runner import ROUNDS_LEAST, Budget, Pool, by_pool, measure
from benchmarks.samples import PEAK_CLIENT, SPEED
from benchmarks.sides import PROGRAM, Side, sides
from benchmarks.sides.disk import Client as Disk

FOLDER = Path(benchmarks.sides.__file__).parent
SIDES = sides(Path("model"))


def works() -> Iterator[Work]:
    for figures in FAMILIES.values():
        for figure in figures:
            for each in figure.works:
                yield each
                if each.beside is not None:
                    yield each.beside


def methods(module: str) -> dict[str, ast.arguments]:
    """The methods of a side's Client, without importing what the side needs."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and "Client" in {name.name for name in node.names}:
            assert node.module is not None
            return methods(node.module.rpartition(".")[2])
        if isinstance(node, ast.ClassDef) and node.name == "Client":
            found: dict[str, ast.arguments] = {}
            for base in node.bases:  # as `ours.Client`
                if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
                    found |= methods(base.value.id)
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
            return found | {each.name: each.args for each in node.body if isinstance(each, kinds)}
    raise AssertionError(f"{module} has no Client")


def test_every_declared_work_exists() -> None:
    """Each work of each family is a method of its side's client, with the arguments it takes."""
    seen = 0
    for each in works():
        arguments = methods(SIDES[each.side].module)[each.name]
        names = [argument.arg for argument in arguments.args[1:]]
        required = names[: len(names) - len(arguments.defaults)]
        assert set(required) <= set(each.arguments) <= set(names), each
        seen += 1
    assert seen > 50


def test_names_of_figures_are_unique_in_their_family() -> None:
    """A figure is found in the file by its family and name."""
    for family, figures in FAMILIES.items():
        assert len({figure.name for figure in figures}) == len(figures), family


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with Pool({"tcp": SIDES["tcp"], "broken": Side("nowhere", "nothing")}, tmp_path) as started:
        yield started


def test_a_figure_is_measured(pool: Pool) -> None:
    """Servers and clients in processes of their own give rounds that moved the bytes asked for."""
    nbytes = 2**16
    figure = Figure(
        name="sockets",
        ours=work("tcp", "read", nbytes=nbytes),
        peers=(
            peer("fresh", work("tcp", "read", nbytes=nbytes, fresh=True)),
            peer(
                "beside", work("tcp", "assign", nbytes=nbytes, beside=work("tcp", "read", nbytes=8))
            ),
        ),
        measures=(SPEED,),
        nbytes=nbytes,
        in_flight=1,
        round_seconds=0.001,
    )
    pool.start(["tcp"])
    (result,) = measure([figure], pool, Budget(seconds=0), say=lambda what: None)
    assert not result.problem
    assert [len(each) for each in result.rounds] == [ROUNDS_LEAST] * 3
    for each in result.rounds:
        assert SPEED.compute(each) > 0
        assert PEAK_CLIENT.compute(each) > 1
        assert all(one.moved == nbytes * len(one.times) / 1e9 for one in each)


def test_calls_and_rounds_may_be_given(pool: Pool) -> None:
    """Where a figure says how many calls and rounds it takes, neither is found out by trying."""
    what = work("tcp", "read", nbytes=1)
    figure = Figure("few", what, (), (SPEED,), calls=3, rounds=2)
    pool.start(["tcp"])
    (result,) = measure([figure], pool, Budget(seconds=60), say=lambda what: None)
    assert [[len(each.times) for each in one] for one in result.rounds] == [[3, 3]]


def test_what_is_large_has_sides_of_its_own() -> None:
    small = Figure("small", work("tcp", "read", nbytes=1), (), (SPEED,))
    large = replace(small, needs=3 * 2**30)
    assert by_pool([small, large, small, large]) == [[1], [3], [0, 2]]
    assert by_pool([large]) == [[0]]
    assert by_pool([small]) == [[0]]


def test_a_folder_of_a_server_does_not_outlive_it(tmp_path: Path) -> None:
    """What an earlier run left is gone when a server starts, and what it leaves when it ended."""
    scratch = tmp_path / "state"
    scratch.mkdir()
    side = replace(SIDES["tcp"], scratch=scratch)
    with Pool({"tcp": side}, tmp_path) as pool:
        pool.start(["tcp"])
        assert not scratch.exists()
        scratch.mkdir()
    assert not scratch.exists()


def test_the_disk_is_appended_to(tmp_path: Path) -> None:
    """The floor writes and syncs a file that does not grow without end."""
    with Disk(str(tmp_path)).append(2**12, keep=2**14) as append:
        for _ in range(10):
            append()


def test_a_budget_is_rounds_and_seconds() -> None:
    """Five rounds at least and until the time is up; three where they take minutes."""
    budget = Budget(seconds=4)
    assert [budget.spent(rounds, 3.9) for rounds in (4, 5, 39)] == [False] * 3
    assert [budget.spent(rounds, 4.1) for rounds in (4, 5)] == [False, True]
    assert [budget.spent(rounds, 61) for rounds in (2, 3)] == [False, True]


def test_a_figure_that_fails_is_a_problem_of_its_own(pool: Pool) -> None:
    """A work that fails says why, and the next figure is measured."""
    wrong = Figure("wrong", work("tcp", "fly"), (), (SPEED,), round_seconds=0)
    huge = Figure(
        "huge", work("tcp", "read", nbytes=1), (), (SPEED,), needs=2**60, else_try="a smaller one"
    )
    right = Figure("right", work("tcp", "read", nbytes=1), (), (SPEED,), round_seconds=0)
    pool.start(["tcp"])
    found = [*measure([wrong, huge, right], pool, Budget(seconds=0), say=lambda what: None)]
    assert "fly" in found[0].problem
    assert "memory" in found[1].problem
    assert "a smaller one" in found[1].problem
    assert not found[2].problem


def test_a_side_that_does_not_start_says_so(pool: Pool) -> None:
    """A server that ends before it is ready is an error with what it said."""
    with pytest.raises(Failed, match="nowhere"):
        pool.start(["broken"])


def test_calls_in_flight_are_so_many_and_no_more() -> None:
    """Many calls as one: each is made once, and as many at a time as were asked for."""
    going, most, made = 0, 0, 0

    async def act() -> None:
        nonlocal going, most, made
        going += 1
        most, made = max(most, going), made + 1
        await asyncio.sleep(0)
        going -= 1

    asyncio.run(several(act, times=10, in_flight=3)())
    assert (most, made, going) == (3, 10, 0)


@pytest.mark.skipif(not PROGRAM.is_file(), reason="make bench-peers builds it")
def test_the_peer_in_cpp(tmp_path: Path) -> None:
    """The server in C++ gives what is asked for to both clients, and the client its own seconds."""
    with Pool({"cpp": SIDES["cpp"]}, tmp_path) as pool:
        pool.start(["cpp"])
        figure = Figure(
            "cpp",
            work("cpp", "read", nbytes=3 * 2**20 + 7),
            (
                peer("native", work("cpp", "native_read", nbytes=3 * 2**20 + 7)),
                peer("calls", work("cpp", "native_echo", nbytes=8, times=10, in_flight=4)),
                peer("stream", work("cpp", "native_stream", nbytes=8, times=10)),
                peer("Python's", work("cpp", "echo_many_aio", nbytes=8, times=10, in_flight=4)),
            ),
            (SPEED,),
            nbytes=3 * 2**20 + 7,
            calls=2,
            rounds=1,
        )
        (result,) = measure([figure], pool, Budget(seconds=0), say=lambda what: None)
    assert not result.problem
    assert all(seconds > 0 for each in result.rounds for seconds in each[0].times)


def test_a_child_that_ends_while_its_process_is_watched(tmp_path: Path) -> None:
    """What is left of them is counted, as with a database whose connections come and go."""
    # The shell says the number of a child that ends with the next line, and waits for another.
    script = "sleep 60 & echo $!; read line; kill $!; wait $!; echo ended; read line"
    process = Process(["sh", "-c", script], tmp_path / "log")
    process.line()
    with process.watched() as found:
        process.say("end")
        assert process.line() == "ended"
    process.end()
    assert found[0].peak > 0
