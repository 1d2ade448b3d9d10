"""Models on a device that is not the host: on a second logical CPU here, on a GPU where one is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import saved_models
from varserve_service import savedmodel
from varserve_service.savedmodel import Placement, configure_devices

SECOND_DEVICE = str(Path(__file__).with_name("second_device.py"))
# In a process of its own: devices are fixed by the first use of TensorFlow in a process.
ON_A_SECOND_CPU = """
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import tensorflow as tf

from tests import saved_models
from tests.savedmodel.looking import run, variable
from varserve_service import savedmodel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.savedmodel import Placement, placement as rules

cpus = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()]
tf.config.set_logical_device_configuration(cpus[0], two)
root = Path(sys.argv[1])
place = Placement(logical="CPU:1", shown="GPU:3")


def load(name):
    return savedmodel.load(name, saved_models.build(name, root), placement=place)


model = load("counter")
assert model.device == "GPU:3", model.device
v = variable(model, "v")
assert v.spec.device == "GPU:3", v.spec.device
value = v.read()
assert not rules.is_host(value.tensor.backing_device), value.tensor.backing_device
expected = np.array([1, 2, 3], np.float32)
assert value.numpy().tolist() == [1, 2, 3]
for start in range(13):
    for stop in range(start, 13):
        assert bytes(value.buffer(start, stop)) == expected.tobytes()[start:stop], (start, stop)
staged = v.stage(np.array([10, 20, 30], np.float32))
assert not rules.is_host(staged.tensor.backing_device)
total = v.combine(Operation.ADD, value, staged)
assert not rules.is_host(total.tensor.backing_device)
v.write(total)
assert v.read().numpy().tolist() == [11, 22, 33]
assert value.numpy().tolist() == [1, 2, 3]
assert run(model, "serving_default", x=np.ones(3, np.float32)) == {"output_0": 66}
assert run(model, "add", n=np.int64(2)) == {"count": 2}

words = variable(load("strings_and_ints"), "labels")
assert words.read().numpy()[0, 1] == b"\\xff\\x00"

model = load("every_dtype")
for v in model.variables:
    before = v.read()
    rows, slices = Rows(np.array([1])), Slices((Slice(), Slice(0, 3, 2)))
    for region, at in ((rows, [1]), (slices, (slice(None), slice(0, 3, 2)))):
        part = v.read(region)
        assert part.numpy().tolist() == before.numpy()[at].tolist(), v.spec
        swapped = np.ascontiguousarray(before.numpy()[at][..., ::-1])
        new = before.numpy().copy()
        new[at] = swapped
        v.write(v.stage(swapped.copy()), region)
        assert v.read().numpy().tolist() == new.tolist(), v.spec
        v.write(before)

from tests.core.exactly import check, check_histogram
from tests.savedmodel.looking import traces
from varserve import content_hash
from varserve.tensors import numpy_dtype
from varserve_service.core.values.summaries import HistogramSpec, summarize

rng = np.random.default_rng(5)
counted = set()
for round in range(3):
    with traces() as made:
        for v in model.variables:
            dtype = v.spec.dtype
            if dtype == "string":
                array = np.array([[b"ab", b"", b"c"]], object)
            elif dtype == "bool":
                array = rng.integers(0, 2, (9, 5 + round)).astype(bool)
            elif round:
                # Any bits: NaN, infinities, the largest and the smallest.
                size = numpy_dtype(dtype).itemsize
                bits = rng.integers(0, 256, (9, (5 + round) * size)).astype(np.uint8)
                array = bits.view(numpy_dtype(dtype))
                if array.dtype.kind in "fc" or dtype == "bfloat16":
                    # Subnormal numbers may count as zero there.
                    parts = array.view(array.real.dtype)
                    tiny = ml_dtypes.finfo(parts.dtype).smallest_normal
                    parts[np.abs(parts) < tiny] = 0
            else:
                array = np.zeros((0, 3), numpy_dtype(dtype))
            value = v.stage(array.copy())
            if dtype != "string":
                assert not rules.is_host(value.tensor.backing_device), dtype
            for wish in (HistogramSpec(7), HistogramSpec(5, (-1.0, 2.5))):
                found = summarize(value, histogram=wish, content_hash=True)
                check(array, found)
                check_histogram(array, found)
                assert found.content_hash.hex() == content_hash(array), dtype
                counted.add(dtype)
    # All that is needed was traced when the model was loaded.
    assert not made, made
assert len(counted) == len(model.variables)
print("checked", len(model.variables))
"""


def test_on_a_second_logical_device(tmp_path: Path) -> None:
    """Variables and functions live on the given device, and what is read is copied part by part."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ON_A_SECOND_CPU, str(tmp_path)],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"checked {len(saved_models.DTYPES)}"


def test_every_operation_on_a_second_logical_device() -> None:
    """What `second_device` promises: each in a sentence there."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SECOND_DEVICE],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 20, done.stdout


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    """With a GPU, `auto` places variables there, and reads and writes go through it."""
    import numpy as np
    import tensorflow as tf

    from .looking import run, variable

    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("no GPU")
    placement: Placement = configure_devices("auto")
    path = saved_models.build("counter", tmp_path)
    model = savedmodel.load("counter", path, placement=placement)
    v = variable(model, "v")
    assert v.spec.device == "GPU:0"
    v.write(v.stage(np.ones(3, np.float32)))
    assert run(model, "serving_default", x=np.ones(3, np.float32)) == {"output_0": 3}


def test_a_gpu_has_the_kernels_that_are_counted_on() -> None:
    """TensorFlow lists them; where one is not there, it brings wholes to the host, or fails."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    from varserve_service.savedmodel import values, variables

    if not tf.sysconfig.get_build_info()["is_cuda_build"]:
        pytest.skip("TensorFlow for CPUs")

    def listed(operation: str, **dtypes: str) -> bool:
        for kernel in kernels.get_registered_kernels_for_op(operation).kernel:
            taken = {each.name: each.allowed_values.list.type for each in kernel.constraint}
            if (
                kernel.device_type in ("GPU", "DEFAULT")
                # What is in host memory is no kernel of a GPU but in name.
                and not {"value", "input", "tensor", "output"} & set(kernel.host_memory_arg)
                and all(tf.as_dtype(d).as_datatype_enum in taken[n] for n, d in dtypes.items())
            ):
                return True
        return False

    for dtype in variables._IN_PLACE_ON_DEVICE:
        assert listed("ResourceGather", dtype=dtype, Tindices="int64"), dtype
        assert listed("ResourceScatterUpdate", dtype=dtype, Tindices="int64"), dtype
        assert listed("ResourceStridedSliceAssign", T=dtype), dtype
    for dtype in values._GATHERED:
        assert listed("GatherV2", Tparams=dtype, Tindices="int64"), dtype
    for dtype in values._SCATTERED:
        assert listed("TensorScatterUpdate", T=dtype, Tindices="int64"), dtype
    host_only = ("string", "int32", "float8_e5m2", "float8_e4m3fn")
    for dtype in saved_models.DTYPES:
        there = dtype not in host_only
        assert listed("VarHandleOp", dtype=dtype) == there, dtype
        if there:
            assert listed("StridedSlice", T=dtype), dtype
            assert listed("TensorStridedSliceUpdate", T=dtype), dtype
            assert dtype == "bool" or listed("AddV2", T=dtype), dtype
            assert dtype in values._SCATTERED or dtype in values._WORDS or dtype == "bool"
