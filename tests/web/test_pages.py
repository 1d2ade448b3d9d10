"""The inspector's pages over HTTP: what they show, what they refuse, and as whom they ask."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message

import numpy as np
import pytest

import varserve
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from tests.web.conftest import inspector
from varserve_service.core.model.live_model import LiveModel

MODEL = "/models/fake"


def get(url: str, **headers: str) -> tuple[int, str, Message]:
    return _answer(urllib.request.Request(url, headers=headers))


def send(url: str, data: bytes, **headers: str) -> tuple[int, bytes, Message]:
    """POST bytes; headers by names with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        request = urllib.request.Request(url, data, named)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def post(url: str, **fields: str) -> tuple[int, str, Message]:
    return _answer(urllib.request.Request(url, urllib.parse.urlencode(fields).encode()))


def _answer(request: urllib.request.Request) -> tuple[int, str, Message]:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def form_token(page: str) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', page)
    assert found, page
    return found[1]


def test_every_page_shows_what_it_is_about(url: str) -> None:
    """Models, variables, a variable of each kind, functions and commits: 200, with their names."""
    for path, wanted in {
        "/": "fake",
        MODEL: "dense/kernel",
        f"{MODEL}/variables/dense/kernel": "3 x 4",
        f"{MODEL}/variables/deep?i0=1&i1=2&row=1&column=3": "index 1",
        f"{MODEL}/variables/counter": "scalar",
        f"{MODEL}/variables/table?row=990": "1000 x 4",
        f"{MODEL}/variables/unset": "has no value",
        f"{MODEL}/functions": "may write",
        f"{MODEL}/functions/double": "Run",
        f"{MODEL}/commits": "revision",
    }.items():
        status, page, headers = get(url + path)
        assert (path, status) == (path, 200)
        assert wanted in page, path
        assert headers["content-security-policy"].startswith("default-src 'none'")


def test_nothing_is_loaded_from_elsewhere(url: str) -> None:
    """Every address in a page, its styles and its script is one of these pages' own."""
    _, page, _ = get(url + MODEL)
    assets = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert len(assets) == 2
    for text in (page, *(get(url + each)[1] for each in assets)):
        assert re.findall(r"https?://[^\s\"')]+", text) == []


def test_what_is_odd_is_told(url: str) -> None:
    """NaN and infinite elements are counted, and what the model has beside is named."""
    _, page, _ = get(f"{url}{MODEL}/variables/broken")
    assert re.search(r"<dt>NaN</dt><dd>1</dd>\s*<dt>infinite</dt><dd>1</dd>", page)
    _, page, _ = get(url + MODEL)
    assert "its input &#39;x&#39; is a variant" in page


def test_text_of_a_model_is_text(url: str) -> None:
    """Markup in a name that is asked for comes back escaped."""
    status, page, _ = get(f"{url}{MODEL}/variables/" + urllib.parse.quote("<script>x</script>"))
    assert status == 404
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page


def test_the_filter_is_the_service_side(url: str) -> None:
    """A filter keeps the names that have the text, whatever the case."""
    _, page, _ = get(f"{url}{MODEL}?filter=DENSE")
    assert re.findall(r'data-variable="([^"]+)"', page) == ["dense/kernel"]


def test_a_value_is_assigned_and_restored(url: str, client: varserve.Client) -> None:
    """A form sets the value with a message; another brings back what was there before."""
    model = client.model("fake")
    before = model.variables["dense/kernel"].numpy()
    page_url = f"{url}{MODEL}/variables/dense/kernel"
    _, page, _ = get(page_url)
    revision = re.search(r'name="revision" value="(\d+)"', page)
    assert revision
    value = (before + 1).tolist()
    fields = {"form_token": form_token(page), "revision": revision[1], "message": "one up"}
    status, page, _ = post(f"{url}{MODEL}/assign/dense/kernel", value=str(value), **fields)
    assert (status, "one up" in page) == (200, True)
    assert model.variables["dense/kernel"].numpy().tolist() == value
    (commit,) = model.commits("dense/kernel", limit=1)
    assert commit.info.message == "one up"
    _, page, _ = get(f"{page_url}?from={commit.revision - 1}&to={commit.revision}")
    assert "12 of the 12 elements shown changed, by 1 at most" in page
    status, _, _ = post(
        f"{url}{MODEL}/revert",
        form_token=form_token(page),
        revision=str(commit.revision - 1),
        variable="dense/kernel",
    )
    assert status == 200
    assert np.array_equal(model.variables["dense/kernel"].numpy(), before)


def test_a_value_that_somebody_wrote_meanwhile_is_kept(url: str, client: varserve.Client) -> None:
    """A form made before another write is refused, and the other write stays."""
    counter = client.model("fake").variables["counter"]
    _, page, _ = get(f"{url}{MODEL}/variables/counter")
    revision = re.search(r'name="revision" value="(\d+)"', page)
    assert revision
    counter.assign(41)
    status, page, _ = post(
        f"{url}{MODEL}/assign/counter",
        form_token=form_token(page),
        revision=revision[1],
        value="5",
    )
    assert status == 409
    assert counter.numpy() == 41


def test_nan_needs_to_be_meant(url: str, client: varserve.Client) -> None:
    """A value with NaN is refused unless the form says that it may have some."""
    _, page, _ = get(f"{url}{MODEL}/variables/dense/kernel")
    fields = {"form_token": form_token(page), "revision": "0"}
    value = str([[float("nan")] * 4] * 3).replace("nan", "NaN")
    status, page, _ = post(f"{url}{MODEL}/assign/dense/kernel", value=value, **fields)
    assert (status, "NaN or infinite" in page) == (400, True)


def test_a_function_runs(url: str) -> None:
    """A form with JSON gives the outputs; what does not fit is said beside the form."""
    page_url = f"{url}{MODEL}/functions/double"
    _, page, _ = get(page_url)
    token = form_token(page)
    _, page, _ = post(page_url, **{"form_token": token, "input:x": "[1.5, -2]"})
    assert "[ 3. -4.]" in page
    status, page, _ = post(page_url, **{"form_token": token, "input:x": "one"})
    assert (status, "expected JSON" in page) == (200, True)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (f"{MODEL}/assign/counter", {"value": "1", "revision": "0"}),
        (f"{MODEL}/revert", {"revision": "0"}),
        (f"{MODEL}/functions/count", {}),
    ],
)
def test_read_only_pages_change_nothing(
    read_only: str, client: varserve.Client, path: str, fields: dict[str, str]
) -> None:
    """Without --writable every form that would change something is refused, and none is shown."""
    model = client.model("fake")
    before = model.revision
    _, page, _ = get(f"{read_only}{MODEL}/functions/double")
    status, text, _ = post(read_only + path, form_token=form_token(page), **fields)
    assert (status, "--writable" in text) == (403, True)
    model.refresh()
    assert model.revision == before
    assert "<form method" not in get(f"{read_only}{MODEL}/variables/counter")[1]


def test_a_form_of_another_site_is_refused(url: str, client: varserve.Client) -> None:
    """Without the token of a page that is open, a form changes nothing."""
    before = client.model("fake").revision
    status, _, _ = post(f"{url}{MODEL}/assign/counter", value="1", revision="0")
    assert (status, client.model("fake").revision) == (403, before)


def test_another_host_name_is_refused(url: str) -> None:
    """A page of another site that resolves its own name to this address gets nothing."""
    status, page, _ = get(url + "/", Host="attacker.example")
    assert (status, "fake" in page) == (400, False)


def test_failures_have_the_statuses_of_http(url: str) -> None:
    """What is not there is 404, a revision that is not a number 400; the text is the service's."""
    status, page, _ = get(f"{url}/models/nobody")
    assert (status, "nobody" in page) == (404, True)
    assert get(f"{url}{MODEL}/variables/counter?at=soon")[0] == 400
    status, page, _ = get(f"{url}{MODEL}/variables/counter?at=999999")
    assert status == 400


def test_many_variables_are_a_page_at_a_time() -> None:
    """Pages of a model of 20,000 variables show a part, also while it is described anew."""
    names = [f"layer_{index:05}/kernel" for index in range(20_000)]
    many = FakeModel([FakeVariable(name, np.zeros(2, np.float32)) for name in names])
    with serve_here(LiveModel(many), message_bytes=64 << 20) as address, inspector(address) as url:
        get(url + MODEL)  # the description of the model is fetched once
        began = time.monotonic()
        status, page, _ = get(f"{url}{MODEL}?page=200")
        took = time.monotonic() - began
    assert status == 200
    assert re.findall(r'data-variable="([^"]+)"', page) == names[-100:]
    assert "page 200 of 200" in page
    assert len(page) < 1 << 20
    assert took < 30
