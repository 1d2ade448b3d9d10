"""Commits as TensorBoard's event files: histograms and scalars of what they changed.

Needs `pip install "varserve[tensorboard]"`, which brings no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from varserve import Event, Histogram, Summary
from varserve.recording import statistics, told


class TensorBoardRecorder:
    """Writes below a folder: a run for each model and epoch, in which revisions count."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[tuple[str, str], Any] = {}

    def record(self, event: Event, summaries: Mapping[str, Summary]) -> None:
        """Write one commit."""
        writer = self._writer(event.model, event.epoch)
        step, when = event.revision, event.info.time.timestamp()
        writer.add_text("commits", told(event), step, when)
        for name, summary in summaries.items():
            for kind, value in statistics(summary).items():
                writer.add_scalar(f"{name}/{kind}", value, step, when)
            if summary.histogram is not None:
                _add(writer, name, summary, summary.histogram, step, when)
        writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, model: str, epoch: str) -> Any:
        from tensorboardX import SummaryWriter

        key = model, epoch
        if key not in self._writers:
            self._writers[key] = SummaryWriter(str(self._folder / f"{model}-{epoch[:8]}"))
        return self._writers[key]


def _add(
    writer: Any, name: str, summary: Summary, histogram: Histogram, step: int, when: float
) -> None:
    counts = histogram.counts.astype(np.float64)
    total = float(counts.sum())
    writer.add_histogram_raw(
        name,
        min=float(histogram.edges[0]),
        max=float(histogram.edges[-1]),
        num=int(total),
        sum=summary.mean * total,
        sum_squares=summary.norm**2,
        bucket_limits=histogram.edges[1:].tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
        walltime=when,
    )
