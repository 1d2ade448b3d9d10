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


@pytest.mark.parametrize("width", [24, 40, 60, 200])
def test_a_terminal_is_not_overrun(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """What is too wide goes on below, in its column; no character is lost."""
    monkeypatch.setenv("COLUMNS", str(width))
    cells = ("layers/0/kernel" * 3, "float32 [768, 768]", "2.2 MiB", "音楽" * 9)
    with redirect_stdout(Screen()) as screen:
        output.table(COLUMNS, [cells])
    text = click.unstyle(screen.getvalue())
    assert max(map(cell_len, text.splitlines())) <= width
    printed = sorted("".join(text.split()).replace("─", ""))
    assert printed == sorted("variabletypesizehash" + "".join(cells).replace(" ", ""))


def test_words_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that is too wide is divided between its words, and where it has none, anywhere."""
    monkeypatch.setenv("COLUMNS", "23")
    with redirect_stdout(Screen()) as screen:
        output.table(["name", "type"], [("abcdefghijkl", "float32 [768, 768]")])
    assert screen.getvalue() == (
        "\n"
        "\x1b[1mname         type\x1b[0m\n"
        "───────────────────────\n"
        "abcdefghij   float32\n"
        "kl           [768, 768]\n"
        "\n"
    )


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
