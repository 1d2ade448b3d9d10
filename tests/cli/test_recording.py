"""`varserve watch` into TensorBoard's event files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

import varserve
from tests.cli.conftest import Cli
from tests.waiting import join

# The files of `tensorboardX` are read by its own protos: TensorBoard is no dependency of the tests.


def records(folder: Path) -> list[Any]:
    """All summary values that were written, with their steps."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.rglob("events.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            # A length, its checksum, the record, its checksum.
            length = int.from_bytes(data[position : position + 8], "little")
            event = Event.FromString(data[position + 12 : position + 12 + length])
            found += [(event.step, value) for value in event.summary.value]
            position += 16 + length
    return found


def test_commits_become_histograms_and_scalars(
    cli: Cli, client: varserve.Client, tmp_path: Path
) -> None:
    """A step for each revision: statistics, a histogram, and who made the commit and why."""
    variable = client.model("fake").variables["weights"]
    folder = tmp_path / "runs"
    arguments = ("watch", "fake", "weights", "--count", "2", "--tensorboard", str(folder))
    thread = threading.Thread(
        target=cli, args=(*arguments, "--after-revision", str(client.model("fake").revision))
    )
    thread.start()
    try:
        for value in (1.0, 3.0):
            variable.assign(np.full((3, 4, 5), value, np.float32), message=f"all {value:g}")
    finally:
        join([thread])
    found = records(folder)
    means = [(step, value.simple_value) for step, value in found if value.tag == "weights/mean"]
    assert means == [(1, 1.0), (2, 3.0)]
    histograms = [value.histo for _, value in found if value.tag == "weights"]
    assert [histogram.num for histogram in histograms] == [60, 60]
    assert [round(histogram.sum) for histogram in histograms] == [60, 180]
    texts = [value for _, value in found if value.tag.startswith("commits")]
    assert len(texts) == 2
    assert b"assign: all 3" in texts[1].tensor.string_val[0]
    (run,) = folder.iterdir()
    assert run.name.startswith("fake-")


def test_what_is_missing_is_named(cli: Cli, monkeypatch: Any, tmp_path: Path) -> None:
    """Without the package the option says what to install, and nothing is watched."""
    monkeypatch.setattr("varserve.cli.follow.find_spec", lambda name: None)
    for option in (("--tensorboard", str(tmp_path)), ("--mlflow",)):
        assert "pip install" in cli("watch", "fake", *option, code=2).stderr
    assert list(tmp_path.iterdir()) == []
