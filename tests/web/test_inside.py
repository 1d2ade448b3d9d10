"""The inside of functions on the pages of a real model: over HTTP, and in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

import varserve
from tests import saved_models
from tests.serving import serve_here
from tests.web.browsing import IN_A_BROWSER, contrasts, live, picture
from tests.web.conftest import inspector
from tests.web.test_pages import form_token, get, post, send
from varserve_service import savedmodel
from varserve_service.access.policy_file import read_policy
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access
from varserve_service.savedmodel import configure_devices

FUNCTIONS = "/models/inner/functions"
_ALL = 'models: ["*"], variables: ["*"], functions: ["*"]'
POLICY = read_policy(
    f"""
rules:
  - {{subjects: [all], verbs: [list, read, summarize, run, assign, watch, inspect], {_ALL}}}
  - {{subjects: [runner], verbs: [list, read, run, watch], {_ALL}}}
  - {{subjects: [blind], verbs: [list, run, inspect, watch], {_ALL}}}
""".encode()
)


class Named:
    """Takes each bearer token for the name of its caller; a caller without one is `all`."""

    async def subject(self, context: Any) -> str:
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                return str(value).removeprefix("Bearer ")
        return "all"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    placement = configure_devices("cpu")
    folder = saved_models.build("inner", tmp_path_factory.mktemp("models"))
    live = LiveModel(savedmodel.load("inner", folder, placement=placement))
    with serve_here(live, access=Access(authenticator=Named(), policy=lambda: POLICY)) as address:
        yield address


@pytest.fixture(scope="module")
def url(address: str) -> Iterator[str]:
    """Of pages that are read-only."""
    with inspector(address) as url:
        yield url


def look(url: str, function: str, **fields: str) -> str:
    """The page that answers a look inside."""
    _, page, _ = get(f"{url}{FUNCTIONS}/{function}")
    token = form_token(page)
    status, page, _ = post(
        f"{url}{FUNCTIONS}/{function}", form_token=token, action="inspect", **fields
    )
    assert status == 200
    return page


def section(page: str, name: str) -> str:
    """The text of a section, without markup."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found, page
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


def test_inner_tensors_are_listed(url: str) -> None:
    """Each has name, operation, shape, where it stands, what it reads and its source line."""
    _, page, _ = get(f"{url}{FUNCTIONS}/loop?filter=square")
    listed = section(page, "tensors")
    assert "turns/square Square float32 scalar in a loop" in listed
    _, page, _ = get(f"{url}{FUNCTIONS}/fine?filter=layer/")
    assert 'href="/models/inner/variables/w"' in page
    listed = section(page, "tensors")
    assert re.search(r"layer/relu Relu float32 \? x 3 inspectable.py:\d+", listed)
    assert "largest" not in listed


def test_a_look_shows_probes_messages_and_outputs(url: str) -> None:
    """Each iteration has a row and each printed line its iteration, on pages that are read-only."""
    page = look(url, "loop", **{"input:n": "3", "probe:turns/square": "1"})
    inside = section(page, "inside")
    for at, square in enumerate((0, 1, 4)):
        assert f"turns/square {at} Square float32 scalar" in inside
        assert f"print in iteration {at} step {at} square {square}" in section(page, "messages")
    assert "5" in section(page, "outputs")
    assert re.search(r'name="probe:turns/square" value="1" checked', page)


def test_what_is_chosen_stays_so_whatever_is_listed(url: str) -> None:
    """After a look, a tensor that the filter leaves out is still ticked, beside the list."""
    _, page, _ = get(f"{url}{FUNCTIONS}/loop?filter=turns/")
    assert '<p id="chosen" hidden>' in page
    fields = {"input:n": "2", "probe:turns/square": "1", "patterns": "turns/*"}
    path = f"{url}{FUNCTIONS}/loop?filter=no-such-tensor"
    _, page, _ = post(path, form_token=form_token(page), action="inspect", **fields)
    (besides,) = re.findall(r'<p id="chosen">(.*?)</p>', page)
    assert re.findall(r'name="probe:([^"]+)" value="1" checked', besides) == ["turns/square"]


def test_what_is_not_finite_is_told(url: str, address: str) -> None:
    """The first such number is named with its operation; none is said to be none."""
    page = look(url, "hides_infinity", **{"input:x": "[0, 2]", "non_finite": "1"})
    assert "Not finite first in the_log (Log): 1 -inf" in section(page, "inside")
    page = look(url, "hides_infinity", **{"input:x": "[1, 2]", "non_finite": "1"})
    assert "Every number is finite" in section(page, "inside")


def test_gradients_are_shown(url: str) -> None:
    """By inputs, variables and inner tensors, as the form asks."""
    fields = {"input:x": "[[1, 1], [1, 1]]", "gradients_of": "y", "wrt": "x b"}
    shown = section(look(url, "twice", **fields), "gradients")
    assert "x float32 · 2 x 2" in shown
    assert "b float32 · 3" in shown


def test_a_failure_shows_what_was_said_before(url: str) -> None:
    """The printed lines come with the error."""
    page = look(url, "reshaped", **{"input:n": "4"})
    assert "to_n" in page
    told = section(page, "messages")
    assert told.startswith("Said before it failed print in iteration 0 turn 0")
    page = look(url, "loop", **{"input:n": "3", "patterns": "turns/nothing"})
    assert "no inner tensor" in page


def test_a_look_at_what_writes_changes_nothing(url: str, address: str) -> None:
    """Pages that are read-only look into a function that writes, and do not run it."""
    page = look(url, "add", **{"input:n": "5"})
    assert "count is now 5" in section(page, "messages")
    assert 'value="run"' not in page
    with varserve.connect(address) as client:
        model = client.model("inner")
        assert model.variables["count"].numpy() == 0
        assert model.commits("count") == []
    status, text, _ = post(
        f"{url}{FUNCTIONS}/add", form_token=form_token(page), action="run", **{"input:n": "5"}
    )
    assert (status, "--writable" in text) == (403, True)


def test_the_callers_right_shows_and_hides_it(url: str) -> None:
    """Who may not inspect sees the form that runs alone; who may not read is told so."""
    page_url = f"{url}{FUNCTIONS}/fine"
    _, page, _ = get(page_url, Authorization="Bearer runner")
    assert 'value="run"' in page
    assert "Look inside" not in page
    assert "layer/relu" not in page
    for role in ("blind", "nobody"):
        _, page, _ = get(page_url, Authorization=f"Bearer {role}")
        assert "Look inside" not in page
    _, page, _ = get(page_url)
    assert "Look inside" in page
    data = f"form_token={form_token(page)}&action=inspect&input:x=[[1,1]]".encode()
    for name, reason in (("runner", "may not inspect"), ("blind", "may not read")):
        status, answer, _ = send(page_url, data, authorization=f"Bearer {name}")
        assert status == 200
        assert b'id="inside"' not in answer
        assert reason in answer.decode(), answer.decode()


def test_buttons_are_those_of_the_caller(address: str) -> None:
    """Who may not assign finds no Assign, Restore and Back to on pages that may write."""
    with varserve.connect(address) as client:
        b = client.model("inner").variables["b"]
        b.assign(b.numpy(), message="a commit to go back from")
    with inspector(address, "--writable") as url:
        for path, button in (("variables/b", "Assign"), ("commits", "Back to revision")):
            _, page, _ = get(f"{url}/models/inner/{path}")
            assert button in page
            _, page, _ = get(f"{url}/models/inner/{path}", Authorization="Bearer runner")
            assert "a commit to go back from" in page or path == "variables/b"
            assert "<button>" + button not in page
        _, page, _ = get(f"{url}{FUNCTIONS}/add", Authorization="Bearer runner")
        assert 'value="run"' not in page  # It writes.
        _, page, _ = get(f"{url}{FUNCTIONS}/add")
        assert 'value="run"' in page


class TestInABrowser:
    """What people do on the page of a function."""

    pytestmark = IN_A_BROWSER

    def test_tensors_are_ticked_and_looked_at(self, page: Any, url: str) -> None:
        """A filter, ticks and a button, all by the keyboard, show what each tensor was."""
        page.goto(f"{url}{FUNCTIONS}/loop")
        live(page)
        page.keyboard.press("/")
        page.keyboard.type("turns/")
        page.keyboard.press("Enter")
        page.wait_for_url("**filter=turns**")
        page.locator("textarea").focus()
        page.keyboard.type("4")
        box = page.get_by_label("turns/square")
        box.focus()
        page.keyboard.press("Space")
        page.get_by_role("button", name="Look inside").focus()
        page.keyboard.press("Enter")
        page.locator("#probes").wait_for()
        rows = page.locator("#probes tbody tr")
        assert rows.count() == 4
        assert page.locator("#messages li").count() == 4
        assert "step 3 square 9" in page.inner_text("#messages")
        assert page.get_by_label("turns/square").is_checked()

    def test_an_answer_stays_when_others_commit(self, page: Any, url: str, address: str) -> None:
        """A commit while somebody reads an answer is told, and the answer is not loaded again."""
        page.goto(f"{url}{FUNCTIONS}/twice")
        live(page)
        page.locator("textarea").fill("[[1, 1], [0.5, -2]]")
        page.get_by_label("inner tensors").fill("*layer/relu sum_of_both")
        page.get_by_label("find the first number").check()
        page.get_by_role("button", name="Look inside").click()
        page.locator("#probes").wait_for()
        live(page)
        picture(page, "function")
        with varserve.connect(address) as client:
            b = client.model("inner").variables["b"]
            b.assign(b.numpy(), message="as it was")
        page.get_by_text("live · assign: as it was").wait_for()
        assert page.locator("#probes tbody tr").count() == 3

    def test_another_filter_keeps_what_is_typed_and_ticked(
        self, page: Any, url: str, address: str
    ) -> None:
        """Filters, pages of the list and commits of others leave the form as it is, and ticked
        tensors that are not listed are looked at like the others."""
        page.goto(f"{url}{FUNCTIONS}/loop?filter=turns/")
        live(page)
        page.locator("textarea").fill("3")
        page.get_by_label("gradients of").select_option(index=0)
        page.get_by_label("turns/square").check()
        for text in ("nothing-like-it", "print", "turns/"):
            field = page.get_by_label("Filter")
            field.fill(text)
            field.press("Enter")
            page.wait_for_url(f"**filter={quote(text, safe='')}**")
            listed = page.locator("#tensors tbody").get_by_label("turns/square")
            assert listed.count() == (text == "turns/")
            assert page.get_by_label("turns/square").count() == 1
            assert page.get_by_label("turns/square").is_checked()
            assert page.locator("#chosen").is_visible() == (text != "turns/")
        with varserve.connect(address) as client:
            b = client.model("inner").variables["b"]
            b.assign(b.numpy(), message="beside a form")
        page.get_by_text("live · assign: beside a form").wait_for()
        page.locator("textarea").evaluate("field => field.blur()")
        page.get_by_role("button", name="Look inside").click()
        page.locator("#probes").wait_for()
        assert page.locator("#probes tbody tr").count() == 3

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_can_be_read_in_both_schemes(self, page: Any, url: str, scheme: str) -> None:
        """Text and what is behind it differ by at least 4.5 to 1, as WCAG asks."""
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{url}{FUNCTIONS}/hides_infinity")
        page.locator("textarea").fill("[0, 2]")
        page.get_by_label("inner tensors").fill("the_log")
        page.get_by_label("find the first number").check()
        page.get_by_role("button", name="Look inside").click()
        page.locator("#probes").wait_for()
        ratios = contrasts(page)
        assert len(ratios) > 20
        assert min(ratios) >= 4.5
