"""What is computed of rounds, and what the table and the file say of it. Nothing here is timed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import page, picture, report
from benchmarks.figures import (
    Figure,
    at_least,
    at_most,
    at_most_itself,
    at_most_more,
    peer,
    size,
    work,
)
from benchmarks.runner import Result
from benchmarks.samples import (
    ADDED_SERVER,
    CALLS,
    CPU_SERVER,
    P50,
    P99,
    PEAK_CLIENT,
    SPEED,
    Round,
    Usage,
    quantile,
    ratio,
)

OURS, PEER, OTHER = (work("ours", "read"), work("peer", "read"), work("other", "read"))


def rounds(*walls: float, calls: int = 1, nbytes: int = 0, server: Usage | None = None):
    """Rounds of so many equal calls, by what each round took."""
    return [Round([wall / calls] * calls, wall, nbytes, server=server or Usage()) for wall in walls]


def one(value: float) -> float:
    return value


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.991, 100), (1, 100), (0.01, 1), (0, 1)]
)
def test_quantile_is_a_value_by_its_rank(share: float, expected: float) -> None:
    """A quantile is one of the values, and that share of them is not above it."""
    assert quantile([*range(100, 0, -1)], share) == expected


def test_measures() -> None:
    """Each measure is what its name says, over all rounds."""
    usage = Usage(cpu=0.5, peak=300 * 2**20, added=10 * 2**20)
    given = rounds(1.0, 2.0, 4.0, calls=2, nbytes=10**9, server=usage)
    assert P50.compute(given) == pytest.approx(1000)
    assert P99.compute(given) == pytest.approx(2000)
    assert CALLS.compute(given) == pytest.approx(1)
    assert SPEED.compute(given) == pytest.approx(1)
    assert CPU_SERVER.compute(given) == pytest.approx(1.5 / 6)
    assert ADDED_SERVER.compute(given) == 10
    assert PEAK_CLIENT.compute(given) == 0


def test_a_slow_round_of_all_sides_does_not_count() -> None:
    """The ratio of a paired measure is the median of the rounds' ratios."""
    ours, theirs = rounds(1.0, 1.0, 30.0), rounds(2.0, 2.0, 60.0)
    assert ratio(P50, ours, [theirs], one) == pytest.approx(0.5)
    assert ratio(P99, ours, [theirs], one) == pytest.approx(0.5)
    assert ratio(P50, rounds(1.0, 1.0, 30.0), [rounds(2.0, 30.0, 60.0)], one) == 0.5


def test_several_works_combine_to_one_peer() -> None:
    """A peer may be a sum: echo + 1.5 times the function, round by round."""
    found = ratio(P50, rounds(4.0), [rounds(1.0), rounds(2.0)], lambda a, b: a + 1.5 * b)
    assert found == pytest.approx(1)


def test_nothing_to_divide_by_is_no_number() -> None:
    """A ratio to nothing is not a number, rather than an error at the end of a long run."""
    assert math.isnan(ratio(ADDED_SERVER, rounds(1.0), [rounds(1.0)], one))
    assert math.isnan(CPU_SERVER.compute(rounds(1.0)))


@pytest.mark.parametrize(
    ("target", "met", "missed"),
    [
        (at_least(0.5), (1, 2, 0.5), (1, 2, 0.49)),
        (at_most(1.3), (13, 10, 1.3), (14, 10, 1.4)),
        (at_most_more(5, "ms"), (12, 7, 1.7), (13, 7, 1.9)),
        (at_most_itself(64, "MiB"), (64, 1, 64), (65, 100, 0.65)),
    ],
)
def test_targets(target, met: tuple[float, ...], missed: tuple[float, ...]) -> None:
    """A target holds at its bound and not beyond it."""
    assert target.holds(*met)
    assert not target.holds(*missed)


def test_sizes() -> None:
    """Sizes are said as people say them."""
    assert [size(n) for n in (4, 4096, 2**20, 256 * 2**20, 2**30)] == [
        "4 B",
        "4 KiB",
        "1 MiB",
        "256 MiB",
        "1 GiB",
    ]


def figure() -> Figure:
    return Figure(
        name="read 1 GB",
        ours=OURS,
        peers=(
            peer("first", PEER, targets={SPEED: at_least(0.5)}),
            peer("second", OTHER, targets={SPEED: at_least(2)}),
        ),
        measures=(SPEED,),
        costs=(CPU_SERVER,),
        nbytes=10**9,
    )


def result() -> Result:
    slow = rounds(2.0, 2.0, nbytes=10**9, server=Usage(cpu=3))
    fast = rounds(1.0, 1.0, nbytes=10**9, server=Usage(cpu=1))
    return Result(figure(), [slow, fast, slow])


def test_a_figure_to_its_targets() -> None:
    """With `--targets` a figure has the peers of its targets alone, and is left out without any."""
    mixed = replace(figure(), peers=(*figure().peers, peer("third", work("third", "read"))))
    assert mixed.brief
    assert [each.name for each in mixed.to_its_targets().peers] == ["first", "second"]
    assert not mixed.to_its_targets().costs
    assert mixed.to_its_targets().rounds == 0
    assert replace(mixed, round_seconds=4).to_its_targets().rounds == 2
    assert replace(mixed, round_seconds=4, rounds=3).to_its_targets().rounds == 3
    assert not replace(mixed, repeats=True).brief
    assert not replace(mixed, peers=mixed.peers[2:]).brief


def test_rows() -> None:
    """A row for each measure and peer; costs beside the first peer alone."""
    found = report.rows("bulk", result())
    assert [(row.measure, row.peer, row.ours, row.theirs, row.ratio, row.met) for row in found] == [
        ("speed", "first", 0.5, 1.0, 0.5, True),
        ("speed", "second", 0.5, 0.5, 1.0, False),
        ("CPU, server", "first", 3.0, 1.0, 3.0, None),
    ]


def test_table() -> None:
    """The table says a figure's name once, and of each row whether its target is met."""
    heading, rule, *lines = report.table(report.rows("bulk", result())).splitlines()
    assert heading.split() == ["figure", "ours", "peer", "ratio", "target"]
    assert set(rule) == {"-"}
    assert [" ".join(line.split()) for line in lines] == [
        "read 1 GB speed 0.5 GB/s first 1 GB/s 0.50 >= 0.5 met",
        "speed 0.5 GB/s second 0.5 GB/s 1.00 >= 2 NOT met",
        "CPU, server 3 s/GB first 1 s/GB 3.00",
    ]


def test_document_is_strict_json() -> None:
    """The file keeps rows and sides, says what could not be measured, and holds no NaN."""
    alone = Figure("memory", OURS, (peer("first", PEER),), (ADDED_SERVER,))
    results = [
        ("bulk", result()),
        ("memory", Result(alone, [rounds(1.0), rounds(1.0)])),
        ("memory", Result(alone, problem="needs 5 GiB of memory")),
    ]
    made = report.document(results, {"ours": "varserve"}, ["python", "-m", "benchmarks"], 1.0)
    read = json.loads(json.dumps(made, allow_nan=False))
    bulk, memory, missing = read["figures"]
    assert [side["side"] for side in bulk["sides"]] == ["ours", "peer", "other"]
    assert bulk["rows"][0]["met"] is True
    assert memory["rows"][0]["ratio"] is None
    assert missing["problem"] == "needs 5 GiB of memory"
    assert missing["rows"] == missing["sides"] == []


def test_bars_of_the_picture() -> None:
    """A figure of the file is drawn with ours first, then its peers in their order."""
    made = report.document([("bulk", result())], {}, ["python", "-m", "benchmarks"], 1.0)
    found = picture.bars(made["figures"][0], "speed", until="CPU, server")
    assert found == [("varserve", 0.5, 2.5), ("first", 1.0, 0.0), ("second", 0.5, 0.0)]
    assert picture.bars(made["figures"][0], "p50") == []
    assert picture.caption(made).startswith("python -m benchmarks  (20")


def test_targets_on_the_page(tmp_path: Path) -> None:
    """A run's targets take the place of those before them, each met or missed and by how much."""
    made = report.document([("bulk", result())], {}, ["python", "-m", "benchmarks"], 1.0)
    run, text = tmp_path / "run.json", tmp_path / "page.md"
    run.write_text(json.dumps(made))
    text.write_text(f"before\n{page.BEGIN}old\n{page.END}after\n")
    page.main(str(run), str(text))
    page.main(str(run), str(text))
    before, image, _, _, _, first, second, *rest = (
        text.read_text().replace(page.BEGIN, "").splitlines()
    )
    assert before == "before"
    assert "figures.png" in image
    assert first == "| read 1 GB | speed | 0.5 GB/s | first | 1 GB/s | >= 0.5 | met |"
    assert second.endswith("| second | 0.5 GB/s | >= 2 | **missed**: 1, expected >= 2 |")
    assert rest[-1] == "after"
    assert "python -m benchmarks" in text.read_text()
    text.write_text("no marks")
    with pytest.raises(SystemExit, match="expected the marks"):
        page.main(str(run), str(text))
