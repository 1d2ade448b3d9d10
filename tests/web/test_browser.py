"""The inspector in a real browser: each page, a live change, the keyboard, dark and light."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import varserve
from tests.web.browsing import IN_A_BROWSER, contrasts, live, picture

pytestmark = IN_A_BROWSER


def test_a_change_is_seen_as_it_is_committed(page: Any, url: str, client: varserve.Client) -> None:
    """A commit by another client changes the row, the revision and the status of an open page."""
    page.goto(f"{url}/models/fake")
    live(page)
    row = page.locator('tr[data-variable="table"]')
    before = row.inner_text()
    commit = (
        client.model("fake")
        .variables["table"]
        .assign(np.full((1000, 4), 3, np.float32), message="threes")
    )
    row.and_(page.locator(".changed")).wait_for()
    assert row.inner_text() != before
    assert page.text_content("#revision") == str(commit.revision)
    assert "threes" in page.text_content("#live")
    picture(page, "variables")


def test_a_variable_is_seen_over_its_revisions(
    page: Any, url: str, client: varserve.Client
) -> None:
    """The page of a variable draws the line of its revisions and the difference between two."""
    variable = client.model("fake").variables["deep"]
    for step in range(3):
        variable.assign(variable.numpy() + 1, message=f"step {step}")
    page.goto(f"{url}/models/fake/variables/deep")
    assert page.locator("svg.lines circle").count() == 4
    page.get_by_role("button", name="Compare").click()
    page.locator("#difference").wait_for()
    assert "20 of the 20 elements shown changed, by 1 at most" in page.inner_text("#difference")
    picture(page, "variable")


def test_a_value_is_set_and_undone_by_hand(page: Any, url: str, client: varserve.Client) -> None:
    """Who types a value and a reason sees them in the history, and undoes them by a button."""
    counter = client.model("fake").variables["counter"]
    counter.assign(7)
    page.goto(f"{url}/models/fake/variables/counter")
    page.get_by_label("value, as JSON").fill("99")
    page.get_by_label("why").fill("by hand")
    page.get_by_role("button", name="Assign", exact=True).click()
    page.get_by_text("assign: by hand").wait_for()
    assert counter.numpy() == 99
    page.get_by_role("button", name="Restore").first.click()
    page.get_by_text("revert:").first.wait_for()
    assert counter.numpy() == 7


def test_a_function_is_run_by_hand(page: Any, url: str) -> None:
    """Who types an input and presses Run sees the output."""
    page.goto(f"{url}/models/fake/functions")
    page.get_by_role("link", name="double").click()
    page.locator("textarea").fill("[1, 2]")
    page.get_by_role("button", name="Run").click()
    page.locator("#outputs").wait_for()
    assert "[2. 4.]" in page.inner_text("#outputs")


def test_the_history_is_a_timeline(page: Any, url: str, client: varserve.Client) -> None:
    """The commits are listed, the newest first, each with a way to what it changed."""
    commit = (
        client.model("fake")
        .variables["table"]
        .assign_add(np.ones((1000, 4), np.float32), message="plus one")
    )
    page.goto(f"{url}/models/fake/commits")
    newest = page.locator("ol.timeline > li").first
    assert "plus one" in newest.inner_text()
    newest.get_by_role("link", name="table").click()
    page.locator("#difference").wait_for()
    assert f"to {commit.revision}" in page.inner_text("#difference h2")


def test_the_keyboard_alone_is_enough(page: Any, url: str) -> None:
    """Slash goes to the filter, Enter shows it, Tab reaches a link that shows its focus."""
    page.goto(f"{url}/models/fake")
    page.keyboard.press("/")
    page.keyboard.type("dense")
    page.keyboard.press("Enter")
    page.wait_for_url("**filter=dense**")
    assert page.locator("#variables tbody tr").count() == 1
    page.locator('input[name="trainable"]').focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = page.locator(":focus-visible")
    assert focused.inner_text() == "dense/kernel"
    assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(page: Any, url: str, scheme: str) -> None:
    """Text and what is behind it differ by at least 4.5 to 1, as WCAG asks."""
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{url}/models/fake/variables/broken")
    ratios = contrasts(page)
    assert len(ratios) > 20
    assert min(ratios) >= 4.5
