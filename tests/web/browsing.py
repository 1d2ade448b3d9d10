"""A real browser for the tests of pages: how it is started, and what is measured in it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")

IN_A_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here to open pages with"),
    pytest.mark.slow,
]
"""The marks of a test that needs it."""

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 30_000
"""Milliseconds."""
PICTURES = os.environ.get("VARSERVE_PICTURES")
"""A folder for the pictures of the documentation; `make pictures` sets it."""


_CONTRASTS = """() => {
    const channels = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = color.slice(0, 3).map((v) => v / 255)
            .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = channels(getComputedStyle(at).backgroundColor);
            if (color.length < 4 || color[3] > 0) return color;
        }
    };
    const texts = document.querySelectorAll(
        "h1, h2, p, li, dt, dd, .facts, small, code, a, th, td, button, label, legend");
    return [...texts].map((each) => {
        const text = luminance(channels(getComputedStyle(each).color));
        const behind = luminance(ground(each));
        return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    });
}"""


def contrasts(page: Any) -> list[float]:
    """The ratio of luminances of each text and what is behind it, once all styles are there."""
    page.wait_for_load_state()
    return page.evaluate(_CONTRASTS)  # type: ignore[no-any-return]


def picture(page: Any, name: str) -> None:
    """Keep what is seen, where pictures are made."""
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def live(page: Any) -> None:
    """Wait until the page watches the model."""
    # No function of JavaScript: the pages' policy lets none be made of text.
    page.locator("#live", has_text=re.compile("^live")).wait_for(timeout=PATIENCE)
