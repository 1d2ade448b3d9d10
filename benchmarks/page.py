"""`python -m benchmarks.page [JSON [PAGE]]`: a run's targets as a table in docs/performance.md.

Written between the two marks, in place of what is there: every row that has a target, met or missed
and by how much, over the command, machine and date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .figures import Target
from .picture import PICTURE, SOURCE, caption

PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- targets: begin -->\n", "<!-- targets: end -->\n"


def _by_how_much(row: Mapping[str, Any]) -> str:
    if row["met"]:
        return "met"
    sign, bound = row["target"].split()[:2]
    value = row["ratio"]
    if " more" in row["target"]:
        value = row["ours"] - row["theirs"]
    elif row["unit"] in row["target"].split()[2:]:
        value = row["ours"]
    if value is None:
        return "not known"
    return f"**missed**: {value:.3g}, expected {Target(sign, float(bound))}"


def table(run: Mapping[str, Any]) -> str:
    """The table of a run as Markdown, with what was run under it."""
    lines = [f"![Large values and small calls, beside their peers]({PICTURE.name})", ""]
    lines += ["| figure | | varserve | beside | | target | |", "|---|---|---|---|---|---|---|"]
    for figure in run["figures"]:
        for row in figure["rows"]:
            if row["target"]:
                ours, theirs = (
                    "-" if each is None else f"{each:,.3g} {row['unit']}"
                    for each in (row["ours"], row["theirs"])
                )
                cells = (row["figure"], row["measure"], ours, row["peer"], theirs, row["target"])
                lines.append(f"| {' | '.join(cells)} | {_by_how_much(row)} |")
    problems = [
        f"Not measured: {figure['name']}: {figure['problem']}\n"
        for figure in run["figures"]
        if figure["problem"]
    ]
    said = "\n".join([*lines, ""]) + "\n" + "".join(f"{each}\n" for each in problems)
    return said + "".join(f"    {line}\n" for line in caption(run).splitlines())


def main(source: str = str(SOURCE), page: str = str(PAGE)) -> None:
    """Put a run's table into the page."""
    text = Path(page).read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{page}: expected the marks {BEGIN.strip()} and {END.strip()}")
    try:
        found = table(json.loads(Path(source).read_text()))
    except (OSError, ValueError) as error:
        sys.exit(f"{source}: {error}")
    Path(page).write_text(f"{before}{begin}{found}{end}{after}")
    print(f"written to {page}")


if __name__ == "__main__":
    main(*sys.argv[1:])
