"""The OpenAPI description of both protocols, at `/openapi.json`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import varserve

_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "example": "FP32"},
        "data": {"description": "elements, flat or nested; absent where they are raw bytes"},
        "parameters": {
            "type": "object",
            "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
        },
    },
}

_SCHEMAS: dict[str, Any] = {
    "Failure": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    },
    "PredictRequest": {
        "type": "object",
        "description": "either `instances`, in rows, or `inputs`, in columns",
        "properties": {
            "signature_name": {"type": "string", "default": "serving_default"},
            "instances": {"type": "array", "items": {}, "minItems": 1},
            "inputs": {},
        },
    },
    "PredictResponse": {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": {}}, "outputs": {}},
    },
    "ExamplesRequest": {
        "type": "object",
        "required": ["examples"],
        "properties": {
            "signature_name": {"type": "string", "default": "serving_default"},
            "context": {"type": "object", "description": "features that all examples have"},
            "examples": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "description": "features by name: numbers, texts, `b64` objects, or lists",
                },
            },
        },
    },
    "ExamplesResponse": {
        "type": "object",
        "required": ["result"],
        "properties": {
            "result": {
                "type": "array",
                "description": "for each example pairs of label and score, or a number",
                "items": {},
            }
        },
    },
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {
                "type": "object",
                "properties": {
                    "signature_name": {"type": "string"},
                    "binary_data_output": {"type": "boolean"},
                },
            },
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "parameters": {
                            "type": "object",
                            "properties": {"binary_data": {"type": "boolean"}},
                        },
                    },
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "parameters": {
                "type": "object",
                "properties": {"varserve_revision": {"type": "integer"}},
            },
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
}

_FAILED = {
    "description": "refused; `error` says why",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}},
}


async def openapi(request: Request) -> Response:
    """GET: the description."""
    return JSONResponse(description())


def description() -> dict[str, Any]:
    """Both protocols as an OpenAPI 3.1 document."""
    paths: dict[str, Any] = {
        "/v2": _get("what this is"),
        "/v2/health/live": _get("this process answers"),
        "/v2/health/ready": _get("the service answers, and no model is being loaded"),
    }
    for where in ("", "/versions/{version}", "/labels/{label}"):
        base = f"/v1/models/{{model}}{where}"
        paths[base] = _get("the state of each version", base)
        paths[f"{base}/metadata"] = _get("the signatures", base)
        paths[f"{base}:predict"] = _post("a prediction", base, "Predict")
        paths[f"{base}:classify"] = _post("the classes of examples", base, "Examples")
        paths[f"{base}:regress"] = _post("a number for each example", base, "Examples")
    for where in ("", "/versions/{version}"):
        base = f"/v2/models/{{model}}{where}"
        paths[base] = _get("inputs and outputs of the default signature", base)
        paths[f"{base}/ready"] = _get("the model can be called", base)
        paths[f"{base}/infer"] = _post("an inference", base, "Infer")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "varserve",
            "version": varserve.__version__,
            "description": "TensorFlow Serving's REST and the Open Inference Protocol's",
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("model", "version", "label")
        if f"{{{name}}}" in path
    ]


def _get(summary: str, path: str = "") -> dict[str, Any]:
    answer = {"description": summary, "content": {"application/json": {"schema": {}}}}
    return {
        "get": {
            "summary": summary,
            "parameters": _parameters(path),
            "responses": {"200": answer, "default": _FAILED},
        }
    }


def _post(summary: str, path: str, kind: str) -> dict[str, Any]:
    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    return {
        "post": {
            "summary": summary,
            "parameters": _parameters(path),
            "requestBody": {"required": True, "content": content(f"{kind}Request")},
            "responses": {
                "200": {"description": summary, "content": content(f"{kind}Response")},
                "default": _FAILED,
            },
        }
    }
