"""Tables: whole in a pipe, within the width of a terminal, and at once however long they are."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stdout

import click
import pytest
from rich.cells import cell_len

from varserve.cli import output

COLUMNS = ["variable", "type", ">size", "hash"]


class Screen(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")


def test_a_pipe_gets_every_row_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns stand under their names, however wide, and nothing is at the end of a line."""
    output.table(
        COLUMNS, [("a" * 300, "float32 [2, 3]", "24 B", "12"), ("音", "bool []", "1 B", "")]
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "variable" + " " * 294 + "type            size  hash"
    assert first == "a" * 300 + "  float32 [2, 3]  24 B  12"
    assert second == "音" + " " * 300 + "bool []          1 B"


def test_a_table_without_names_or_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns without names have no line for them, and a table without rows is none."""
    output.table(["", ""], [("count", 3)])
    output.table(COLUMNS, [])
    assert capsys.readouterr().out == "count  3\n"


def lines_of(columns: list[object], rows: list[tuple[object, ...]]) -> list[str]:
    """A table on a terminal, without its style and the empty lines around it."""
    with redirect_stdout(Screen()) as screen:
        output.table(columns, rows)  # type: ignore[arg-type]
    return click.unstyle(screen.getvalue()).strip("\n").split("\n")


@pytest.mark.parametrize("width", [10, 24, 40, 60, 80, 200])
def test_a_terminal_is_not_overrun(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """However narrow it is, no line is wider, and no number is cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    row = ("layers/0/kernel" * 3, "float32 [768, 768]", "2.25 MiB", "音楽" * 9)
    lines = lines_of([*COLUMNS], [row])
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert "2.25 MiB" in text or ("2.25" in text and "MiB" in text and width < 24)


def test_names_are_shortened_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is too long keeps its ends; text goes on below, between its words."""
    monkeypatch.setenv("COLUMNS", "24")
    head, rule, *rows = lines_of(["name", "type"], [("abcdefghijklmn", "float32 [768, 768]")])
    assert (head, rule) == ("name         type", "─" * 24)
    assert rows == ["abcd…jklmn   float32", "             [768, 768]"]


def test_columns_go_by_importance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, columns of the highest number go, before anything is cut short."""
    columns = [
        output.Column("variable"),
        output.Column("min", right=True),
        output.Column("hash", drop=2),
        output.Column("device", drop=1),
    ]
    rows = [("layers/0/kernel", "-0.123456", "f" * 12, "GPU:0")]
    for width, heads in (
        (80, ["variable", "min", "hash", "device"]),
        (50, ["variable", "min", "device"]),
        (30, ["variable", "min"]),
    ):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = lines_of(columns, rows)  # type: ignore[arg-type]
        assert lines[0].split() == heads
        assert lines[2].split()[:2] == ["layers/0/kernel", "-0.123456"]


def test_a_terminal_that_is_too_narrow_gets_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no table fits each row is a block of lines, one for each of its columns."""
    monkeypatch.setenv("COLUMNS", "20")
    lines = lines_of(["name", ">min", ">max"], [("kernel", "-0.123456", "0.1234567")])
    assert lines == ["name kernel", "min -0.123456", "max 0.1234567"]


def test_thousands_of_rows() -> None:
    """A table of 5,000 rows that must be folded takes a fraction of a second."""
    rows = [
        (f"layers/{n}/dense/kernel", "float32 [768, 768]", n, "f" * 12) * 3 for n in range(5000)
    ]
    began = time.process_time()
    with redirect_stdout(Screen()) as screen:
        output.table(COLUMNS * 3, rows)
    assert time.process_time() - began < 3
    assert screen.getvalue().count("\n") > 5000
