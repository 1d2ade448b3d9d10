"""REST as TensorFlow Serving and the Open Inference Protocol have it, over HTTP."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.serving import serve_here
from tests.web.conftest import inspector
from tests.web.test_pages import get, send
from varserve.examples.v1 import example_pb2
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import FunctionKind, TensorSpec
from varserve_service.rpc import Access
from varserve_service.rpc.calls.call import Context

CLASSIFIED = {"signature_name": "classified"}


def classified(examples: Any) -> dict[str, Any]:
    """As classes the kinds of the features `x` and `y`, as scores their first values."""
    parsed = [example_pb2.Example.FromString(each).features.feature for each in examples]
    kinds = [[each[name].WhichOneof("kind").encode() for name in "xy"] for each in parsed]
    values = [[_first(each[name]) for name in "xy"] for each in parsed]
    return {"classes": np.array(kinds, object), "scores": np.array(values, np.float32)}


def _first(feature: Any) -> float:
    value = getattr(feature, feature.WhichOneof("kind")).value[0]
    return float(len(value) if isinstance(value, bytes) else value)


def model() -> FakeModel:
    """Signatures over numbers, strings, several inputs, and one that writes."""
    vector, words = TensorSpec("float32", (None,)), TensorSpec("string", (None,))
    functions = [
        FakeFunction(
            "serving_default", lambda x: {"y": x * 2}, inputs={"x": vector}, outputs={"y": vector}
        ),
        FakeFunction(
            "pair",
            lambda a, b: {"sum": a + b, "difference": a - b},
            inputs={"a": vector, "b": vector},
            outputs={"sum": vector, "difference": vector},
        ),
        FakeFunction(
            "words",
            lambda w: {"text": w, "raw_bytes": w},
            inputs={"w": words},
            outputs={"text": words, "raw_bytes": words},
        ),
        FakeFunction(
            "classified",
            classified,
            inputs={"examples": words},
            outputs={
                "classes": TensorSpec("string", (None, 2)),
                "scores": TensorSpec("float32", (None, 2)),
            },
        ),
        FakeFunction(
            "regressed",
            lambda examples: {"outputs": classified(examples)["scores"][:, :1]},
            inputs={"examples": words},
            outputs={"outputs": TensorSpec("float32", (None, 1))},
        ),
        FakeFunction(
            "write", lambda x: {"y": x}, inputs={"x": vector}, outputs={"y": vector}, writes=("v",)
        ),
    ]
    for function in functions:
        object.__setattr__(function.spec, "kind", FunctionKind.SIGNATURE)
    return FakeModel([FakeVariable("v", np.zeros(2, np.float32))], functions)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve_here(LiveModel(model())) as address:
        yield address


@pytest.fixture(scope="module")
def url(address: str) -> Iterator[str]:
    with inspector(address) as url:
        yield url


def post(url: str, content: Any, **headers: str) -> tuple[int, Any]:
    status, body, _ = send(url, json.dumps(content).encode(), **headers)
    return status, json.loads(body)


# ---- TensorFlow Serving ----


def test_rows_and_columns_are_predicted(url: str) -> None:
    """Instances give predictions, inputs give outputs; one output stands for itself."""
    path = f"{url}/v1/models/fake:predict"
    assert post(path, {"instances": [1, 2.5]}) == (200, {"predictions": [2.0, 5.0]})
    assert post(path, {"instances": [{"x": 1}, {"x": 2}]}) == (200, {"predictions": [2.0, 4.0]})
    assert post(path, {"inputs": {"x": [3]}}) == (200, {"outputs": [6.0]})
    assert post(path, {"inputs": [3]}) == (200, {"outputs": [6.0]})
    pair = {"signature_name": "pair", "instances": [{"a": 3, "b": 1}]}
    assert post(path, pair) == (200, {"predictions": [{"sum": 4.0, "difference": 2.0}]})
    pair = {"signature_name": "pair", "inputs": {"a": [3], "b": [1]}}
    assert post(path, pair) == (200, {"outputs": {"sum": [4.0], "difference": [2.0]}})


def test_bytes_are_base64(url: str) -> None:
    """b64 objects are bytes, text is UTF-8; outputs named *_bytes come back as b64."""
    word = base64.b64encode(b"\xff\0").decode()
    given = {"signature_name": "words", "inputs": {"w": [{"b64": word}, "ü"]}}
    status, answer = post(f"{url}/v1/models/fake:predict", given)
    assert status == 200
    assert answer["outputs"]["raw_bytes"][0] == {"b64": word}
    assert answer["outputs"]["text"][1] == "ü"


def test_examples_are_classified_and_regressed(url: str) -> None:
    """Features are encoded by their kinds; those of the context are of every example."""
    examples = [{"x": 1}, {"x": [2.5, 1]}, {"x": "abc", "y": {"b64": "AAA="}}]
    given = CLASSIFIED | {"context": {"y": 7}, "examples": examples}
    status, answer = post(f"{url}/v1/models/fake:classify", given)
    assert (status, answer) == (
        200,
        {
            "result": [
                [["int64_list", 1.0], ["int64_list", 7.0]],
                [["float_list", 2.5], ["int64_list", 7.0]],
                [["bytes_list", 3.0], ["bytes_list", 2.0]],
            ]
        },
    )
    given["signature_name"] = "regressed"
    assert post(f"{url}/v1/models/fake:regress", given) == (200, {"result": [1.0, 2.5, 3.0]})
    found = json.loads(get(f"{url}/v1/models/fake/metadata")[1])
    signatures = found["metadata"]["signature_def"]["signature_def"]
    methods = [signatures[name]["method_name"] for name in ("classified", "regressed", "pair")]
    assert methods == [f"tensorflow/serving/{name}" for name in ("classify", "regress", "predict")]


def test_versions_labels_status_and_metadata(url: str) -> None:
    """A version's number and a label name the model; its state and signatures are told."""
    for where in ("", "/versions/1", "/labels/stable"):
        assert post(f"{url}/v1/models/fake{where}:predict", {"instances": [1]})[0] == 200
        status = json.loads(get(f"{url}/v1/models/fake{where}")[1])
        assert [each["state"] for each in status["model_version_status"]] == ["AVAILABLE"]
    found = json.loads(get(f"{url}/v1/models/fake/metadata")[1])
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]


@pytest.mark.parametrize(
    ("path", "content", "status", "said"),
    [
        ("/v1/models/none:predict", {"instances": [1]}, 404, "none"),
        ("/v1/models/fake/versions/9:predict", {"instances": [1]}, 404, "9"),
        ("/v1/models/fake:predict", {}, 400, "instances"),
        ("/v1/models/fake:predict", {"instances": []}, 400, "at least one"),
        ("/v1/models/fake:predict", {"instances": ["one"]}, 400, "'x'"),
        ("/v1/models/fake:predict", {"inputs": {"z": [1]}}, 400, "no input 'z'"),
        ("/v1/models/fake:predict", {"signature_name": "no", "inputs": [1]}, 404, "no"),
        ("/v1/models/fake:predict", {"signature_name": "write", "inputs": [1]}, 403, "--writable"),
        ("/v1/models/fake:classify", {"examples": [{"x": 1}]}, 400, "use :predict"),
        ("/v1/models/fake:regress", CLASSIFIED | {"examples": [{"x": 1}]}, 400, "use :predict"),
        ("/v1/models/fake:classify", CLASSIFIED, 400, "examples"),
        ("/v1/models/fake:classify", CLASSIFIED | {"examples": []}, 400, "examples"),
        ("/v1/models/fake:classify", CLASSIFIED | {"examples": [1]}, 400, "objects"),
        ("/v1/models/fake:classify", CLASSIFIED | {"examples": [{"x": [1, "a"]}]}, 400, "'x'"),
        ("/v1/models/fake:classify", CLASSIFIED | {"examples": [{"x": True}]}, 400, "'x'"),
        ("/v1/models/fake:classify", CLASSIFIED | {"examples": [{"x": 2**70}]}, 400, "'x'"),
        ("/v1/models/fake:classify", CLASSIFIED | {"examples": [{"x": {"y": 1}}]}, 400, "b64"),
        ("/v2/models/none/infer", {"inputs": []}, 404, "none"),
        ("/v2/models/fake/infer", {"inputs": [{"name": "z"}]}, 400, "'z'"),
        (
            "/v2/models/fake/infer",
            {"inputs": [{"name": "x", "datatype": "FP33", "shape": [1], "data": [1]}]},
            400,
            "FP33",
        ),
        (
            "/v2/models/fake/infer",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]},
            400,
            "1 elements",
        ),
        (
            "/v2/models/fake/infer",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2**40, 2**40], "data": []}]},
            400,
            "too many",
        ),
    ],
)
def test_refusals_are_json(url: str, path: str, content: Any, status: int, said: str) -> None:
    """A request that does not fit gets its status, and an `error` that names the thing."""
    code, answer = post(url + path, content)
    assert code == status
    assert said in answer["error"]


# ---- the Open Inference Protocol ----


def test_tensors_in_json_are_inferred(url: str) -> None:
    """Flat or nested data; the answer names the model, its version and the revision."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    status, answer = post(f"{url}/v2/models/fake/infer", {"id": "7", "inputs": [tensor]})
    assert (status, answer["id"], answer["model_version"]) == (200, "7", "1")
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2], "data": [2.0, 4.0]}
    ]
    assert answer["parameters"] == {"varserve_revision": 0}


def test_tensors_in_raw_bytes_are_inferred(url: str) -> None:
    """Raw bytes after the JSON, in and out, for each tensor that asks for it."""
    a, b = np.arange(3, dtype=np.float32), np.ones(3, np.float32)
    content = {
        "parameters": {"signature_name": "pair"},
        "inputs": [
            {
                "name": name,
                "datatype": "FP32",
                "shape": [3],
                "parameters": {"binary_data_size": 12},
            }
            for name in "ab"
        ],
        "outputs": [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference"}],
    }
    head = json.dumps(content).encode()
    length = str(len(head))
    status, body, headers = send(
        f"{url}/v2/models/fake/infer",
        head + a.tobytes() + b.tobytes(),
        Inference_Header_Content_Length=length,
    )
    size = int(headers["inference-header-content-length"])
    outputs = {each["name"]: each for each in json.loads(body[:size])["outputs"]}
    assert status == 200
    assert outputs["sum"]["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(body[size:], np.float32).tolist() == [1.0, 2.0, 3.0]
    assert outputs["difference"]["data"] == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("size", [-1, 13, "12", True, None])
def test_raw_bytes_that_do_not_fit_are_refused(url: str, size: Any) -> None:
    """A length that lies, or bytes that belong to no tensor."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [3]}
    tensor["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    length = str(len(head))
    status, body, _ = send(
        f"{url}/v2/models/fake/infer", head + bytes(12), Inference_Header_Content_Length=length
    )
    assert status == 400
    assert "error" in json.loads(body)


def test_compressed_bodies_are_taken_and_bombs_are_not(url: str) -> None:
    """gzip and deflate; a body that becomes larger than the limit is refused on the way."""
    content = json.dumps({"instances": [1]}).encode()
    path = f"{url}/v1/models/fake:predict"
    for name, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        assert send(path, compress(content), Content_Encoding=name)[0] == 200
    bomb = gzip.compress(bytes(300 << 20))
    assert len(bomb) < 1 << 20
    assert send(path, bomb, Content_Encoding="gzip")[0] == 413
    assert send(path, gzip.compress(content)[:-9], Content_Encoding="gzip")[0] == 400
    assert send(path, b"not gzip", Content_Encoding="gzip")[0] == 400


def test_pages_of_other_sites_cannot_predict(url: str) -> None:
    """A browser says from which site a request comes; others than these pages are refused."""
    status, answer = post(
        f"{url}/v1/models/fake:predict", {"instances": [1]}, Origin="http://attacker.example"
    )
    assert status == 403
    assert "attacker.example" in answer["error"]


POLICY = b"""
rules:
  - {subjects: [looker], verbs: [list], models: [fake], functions: ["*"]}
  - {subjects: [caller], verbs: [list, run], models: [fake], functions: [serving_default]}
"""


class ByToken:
    """A caller is called as its token."""

    async def subject(self, context: Context) -> str:
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                return str(value).removeprefix("Bearer ")
        raise RequestError(Reason.UNAUTHENTICATED, "expected a token, found none")


def test_who_may_not_is_told_so() -> None:
    """401 without a credential, 403 without the verb, 404 for what may not be listed."""
    policy = read_policy(POLICY)
    access = Access(authenticator=ByToken(), policy=lambda: policy)
    run = {"instances": [1]}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    examples = {"signature_name": "classified", "examples": [{"x": 1, "y": 1}]}
    bodies = {
        "/v1/models/fake:predict": run,
        "/v2/models/fake/infer": {"inputs": [tensor]},
        "/v1/models/fake:classify": examples,
        "/v1/models/fake:regress": examples | {"signature_name": "regressed"},
        "/v1/models/fake:predict ": {"signature_name": "pair", "inputs": {"a": [1], "b": [1]}},
    }
    with serve_here(LiveModel(model()), access=access) as address, inspector(address) as url:

        def outcomes(name: str) -> list[int]:
            headers = {"Authorization": f"Bearer {name}"} if name else {}
            found = [post(url + path.strip(), body, **headers)[0] for path, body in bodies.items()]
            paths = ("/v1/models/fake", "/v1/models/fake/metadata", "/v2/models/fake")
            return found + [get(url + path, **headers)[0] for path in paths]

        assert outcomes("looker") == [403, 403, 403, 403, 403, 200, 200, 200]
        assert outcomes("caller") == [200, 200, 404, 404, 404, 200, 200, 200]
        assert set(outcomes("stranger")) == {403}
        assert set(outcomes("")) == {401}


def test_health_and_metadata(url: str) -> None:
    """Live, ready, the server, a model and its default signature."""
    assert get(f"{url}/v2/health/live")[0] == 200
    assert json.loads(get(url, Accept="*/*")[1]) == {"status": "alive"}
    assert "<html" in get(url, Accept="text/html,*/*")[1]
    assert get(f"{url}/v2/health/ready")[0] == 200
    assert json.loads(get(f"{url}/v2")[1])["extensions"] == ["binary_tensor_data"]
    assert get(f"{url}/v2/models/fake/versions/1/ready")[0] == 200
    assert get(f"{url}/v2/models/none/ready")[0] == 404
    found = json.loads(get(f"{url}/v2/models/fake")[1])
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]


def test_a_commit_is_seen_by_the_next_prediction(url: str, address: str) -> None:
    """The header `varserve-revision` says which revision answered."""
    with varserve.connect(address) as client:
        commit = client.model("fake").variables["v"].assign(np.ones(2, np.float32))
    content = json.dumps({"instances": [1]}).encode()
    _, _, headers = send(f"{url}/v1/models/fake:predict", content)
    assert headers["varserve-revision"] == str(commit.revision)


def test_the_description_is_valid_openapi(url: str) -> None:
    """`/openapi.json` fits OpenAPI's own schema, and every path in it answers."""
    validator = pytest.importorskip("openapi_spec_validator")
    found = json.loads(get(f"{url}/openapi.json")[1])
    validator.validate(found)
    names = {"{model}": "fake", "{version}": "1", "{label}": "stable"}
    for path, methods in found["paths"].items():
        for name, value in names.items():
            path = path.replace(name, value)
        status = get(url + path)[0] if "get" in methods else send(url + path, b"{}")[0]
        assert status in (200, 400), path
