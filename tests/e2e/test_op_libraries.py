"""A model whose functions need operations that TensorFlow does not have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.serving import service_process

TWICE = r"""
#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

static void* Create(TF_OpKernelConstruction*) { return nullptr; }
static void Delete(void*) {}

static void Compute(void*, TF_OpKernelContext* context) {
  TF_Status* status = TF_NewStatus();
  TF_Tensor* x = nullptr;
  TF_GetInput(context, 0, &x, status);
  int64_t count = TF_TensorElementCount(x);
  TF_Tensor* y = TF_AllocateOutput(context, 0, TF_FLOAT, &count, 1, count * sizeof(float), status);
  const float* from = static_cast<const float*>(TF_TensorData(x));
  float* to = static_cast<float*>(TF_TensorData(y));
  for (int64_t i = 0; i < count; ++i) to[i] = 2 * from[i];
  TF_DeleteTensor(x);
  TF_DeleteTensor(y);
  TF_DeleteStatus(status);
}

__attribute__((constructor)) static void Register() {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder("VarserveTwice");
  TF_OpDefinitionBuilderAddInput(op, "x: float");
  TF_OpDefinitionBuilderAddOutput(op, "y: float");
  TF_RegisterOpDefinition(op, status);
  TF_KernelBuilder* kernel = TF_NewKernelBuilder("VarserveTwice", "CPU", Create, Compute, Delete);
  TF_RegisterKernelBuilder("VarserveTwice", kernel, status);
  TF_DeleteStatus(status);
}
"""

# In a process of its own: what a process has loaded it cannot forget.
BUILD = """
import subprocess, sys
import tensorflow as tf

source, library, folder = sys.argv[1:]
flags = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
subprocess.run(["g++", "-shared", "-fPIC", source, "-o", library, *flags], check=True)
operations = tf.load_op_library(library)

class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.bias = tf.Variable(1.0, name="bias")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def twice(self, x):
        return {"y": operations.varserve_twice(x=x) + self.bias}

tf.saved_model.save(Model(), folder)
"""


@pytest.mark.slow
def test_a_library_of_operations_is_loaded_by_setting(tmp_path: Path) -> None:
    """With it the model is served; without it the service ends, and says which operation lacks."""
    if shutil.which("g++") is None:
        pytest.skip("this machine has no g++")
    source, library, model = tmp_path / "twice.cc", tmp_path / "twice.so", tmp_path / "model"
    source.write_text(TWICE)
    command = [sys.executable, "-c", BUILD, str(source), str(library), str(model)]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"})

    settings = tmp_path / "settings.yaml"
    settings.write_text(f"loading: {{m: {{op_libraries: [{library}]}}}}\n")
    with (
        service_process({"m": model}, tmp_path / "log", ("--config", str(settings))) as service,
        varserve.connect(service.address) as client,
    ):
        served = client.model("m")
        x = np.array([1, 2], np.float32)
        assert served.functions["twice"](x=x)["y"].tolist() == [3, 5]
        served.variables["bias"].assign(np.float32(10))
        assert served.functions["twice"](x=x)["y"].tolist() == [12, 14]

    without = [sys.executable, "-m", "varserve_service", "serve", "--model", f"m={model}"]
    ended = subprocess.run(
        [*without, "--port", "0"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2
    assert "does not know: VarserveTwice; if a library has them" in ended.stdout + ended.stderr
