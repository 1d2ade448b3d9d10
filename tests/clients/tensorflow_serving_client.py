"""Every call of TensorFlow Serving's stubs that makes sense, as one JSON document.

tensorflow_serving_client.py HOST:PORT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)


def attempt(call: Callable[[], Any]) -> Any:
    """What a call gives, or how it fails."""
    try:
        return call()
    except grpc.RpcError as error:
        failure: Any = error
        return {"status": failure.code().name, "message": failure.details()}


def example(x: float) -> Any:
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
    return tf.train.Example(features=tf.train.Features(feature={"x": feature}))


def main(address: str) -> dict[str, Any]:
    channel = grpc.insecure_channel(address)
    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)

    def request(x: Any, version: int = 0, label: str = "", signature: str = "") -> Any:
        made = predict_pb2.PredictRequest()
        made.model_spec.name = "scaled"
        made.model_spec.signature_name = signature
        if version:
            made.model_spec.version.value = version
        if label:
            made.model_spec.version_label = label
        made.inputs["x"].CopyFrom(x)
        return made

    def predict(made: Any) -> Any:
        answer = prediction.Predict(made, timeout=30)
        return {name: tf.make_ndarray(value).tolist() for name, value in answer.outputs.items()}

    x = tf.make_tensor_proto(np.arange(3, dtype=np.float32))
    repeated = tf.make_tensor_proto(3.0, shape=[4])
    one_by_one = tf.make_tensor_proto([1.0, 2.0])
    bomb = tf.make_tensor_proto(0.0, shape=[1])
    bomb.tensor_shape.dim[0].size = 1 << 30
    answer = prediction.Predict(request(x), timeout=30)
    filtered = request(x)
    filtered.output_filter.append("z")
    found: dict[str, Any] = {
        "spec": [
            answer.model_spec.name,
            answer.model_spec.version.value,
            answer.model_spec.signature_name,
        ],
        "predict": predict(request(x)),
        "version": predict(request(x, version=1, signature="again")),
        "label": predict(request(x, label="stable", signature="again")),
        "repeated": [repeated.ByteSize(), predict(request(repeated, signature="again"))],
        "one_by_one": predict(request(one_by_one, signature="again")),
        "filtered": predict(filtered),
        "future": sorted(prediction.Predict.future(request(x), 30).result().outputs),
        "bomb": [bomb.ByteSize(), attempt(lambda: predict(request(bomb)))["status"]],
    }
    words = predict_pb2.PredictRequest()
    words.model_spec.name = "words"
    words.inputs["words"].CopyFrom(tf.make_tensor_proto([b"ab", b""]))
    outputs = prediction.Predict(words, timeout=30).outputs
    found["strings"] = [word.decode() for word in tf.make_ndarray(outputs["joined"]).tolist()]
    turned = predict_pb2.PredictRequest()
    turned.model_spec.name = "complex"
    turned.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([1 + 2j], np.complex64)))
    outputs = prediction.Predict(turned, timeout=30).outputs
    found["complex"] = str(tf.make_ndarray(outputs["y"])[0])

    classification = classification_pb2.ClassificationRequest()
    classification.model_spec.name = "examples"
    classification.input.example_list.examples.extend([example(0.25), example(0.5)])
    found["classify"] = [
        {each.label: each.score for each in row.classes}
        for row in prediction.Classify(classification, timeout=30).result.classifications
    ]
    regression = regression_pb2.RegressionRequest()
    regression.model_spec.name = "examples"
    regression.model_spec.signature_name = "regressed"
    regression.input.example_list_with_context.context.CopyFrom(example(1.5))
    regression.input.example_list_with_context.examples.append(tf.train.Example())
    found["regress"] = [
        each.value for each in prediction.Regress(regression, timeout=30).result.regressions
    ]
    multi = inference_pb2.MultiInferenceRequest()
    multi.input.CopyFrom(classification.input)
    for method, signature in (("classify", "serving_default"), ("regress", "regressed")):
        task = multi.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "examples", signature
    results = prediction.MultiInference(multi, timeout=30).results
    found["multi"] = [each.WhichOneof("result") for each in results]
    wrong = regression_pb2.RegressionRequest()
    wrong.CopyFrom(regression)
    wrong.model_spec.signature_name = "serving_default"
    found["wrong method"] = attempt(lambda: prediction.Regress(wrong, timeout=30))

    metadata = get_model_metadata_pb2.GetModelMetadataRequest()
    metadata.model_spec.name = "scaled"
    metadata.metadata_field.append("signature_def")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    unpacked = prediction.GetModelMetadata(metadata, timeout=30).metadata["signature_def"]
    found["unpacked"] = unpacked.Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    found["metadata"] = {
        "signatures": sorted(signatures.signature_def),
        "method": default.method_name,
        "x": [default.inputs["x"].dtype, [d.size for d in default.inputs["x"].tensor_shape.dim]],
        "outputs": sorted(default.outputs),
    }
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "scaled"
    found["status"] = [
        [each.version, each.state, each.status.error_code]
        for each in models.GetModelStatus(status, timeout=30).model_version_status
    ]
    status.model_spec.name = "nobody"
    found["status of none"] = attempt(lambda: models.GetModelStatus(status, timeout=30))
    reload = model_management_pb2.ReloadConfigRequest()
    config = reload.config.model_config_list.config.add(name="scaled", base_path="/models/scaled")
    config.version_labels["canary"] = 1
    models.HandleReloadConfigRequest(reload, timeout=60)
    found["canary"] = predict(request(x, label="canary", signature="again"))
    found["refused"] = {
        "signature": attempt(lambda: predict(request(x, signature="none"))),
        "version": attempt(lambda: predict(request(x, version=9))),
        "dtype": attempt(lambda: predict(request(tf.make_tensor_proto(np.ones(1))))),
        "model": attempt(lambda: prediction.Predict(predict_pb2.PredictRequest(), timeout=30)),
    }
    return found


if __name__ == "__main__":
    json.dump(main(sys.argv[1]), sys.stdout)
