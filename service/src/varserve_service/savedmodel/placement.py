"""Where models live: which devices TensorFlow may use, and how the service calls them.

Owns TensorFlow's device settings, which are process-wide and fixed by its first operation.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import tensorflow as tf

from varserve_service.core.errors import ModelLoadError
from varserve_service.core.memory import Room

from .runtime import memory_limit

_HOST = "CPU:0"
# Threads that are left when all functions of one model are in operations that do not end.
_SPARE_THREADS = 2


# Asked for every tensor that goes in or out.
@lru_cache(maxsize=256)
def device_name(device: str) -> str:
    """`/job:localhost/replica:0/task:0/device:GPU:0` as `GPU:0`; `` as `CPU:0`."""
    match = re.search(r"(CPU|GPU|TPU|XLA_\w+):(\d+)$", device.upper())
    return f"{match[1]}:{match[2]}" if match else _HOST


def is_host(device: str) -> bool:
    """Whether a tensor on this device can be read in place."""
    return device_name(device) == _HOST


def on_device(device: str) -> AbstractContextManager[Any]:
    """Within it, this thread runs operations on a device.

    TensorFlow's own scope takes as long as a small operation. Where the host is the only device,
    operations run there without it.
    """
    if _has_host_alone():
        return _HERE
    scope: AbstractContextManager[Any] = tf.device(device)
    return scope


_HERE = nullcontext()


@cache
def _has_host_alone() -> bool:
    # Devices are fixed by then: this is asked when one is used.
    return len(tf.config.list_logical_devices()) == 1


@dataclass(frozen=True, slots=True)
class Placement:
    """The device on which models are loaded and functions run.

    `logical` is TensorFlow's name for it in this process, `shown` the name that operators and
    clients use: on a machine with four GPUs of which one is used, `GPU:0` is shown as `GPU:3`.
    """

    logical: str = _HOST
    shown: str = _HOST

    def scope(self) -> AbstractContextManager[Any]:
        """Within it, this thread creates variables and runs operations on the device."""
        return on_device(self.logical)

    def memory(self) -> Room | None:
        """Room in the device's own memory; None on the host, or where TensorFlow does not tell."""
        if is_host(self.logical):
            return None
        limit = memory_limit(self.logical)
        try:
            used = tf.config.experimental.get_memory_info(self.logical)["current"]
        except ValueError:
            return None
        return None if not limit else Room(max(0, limit - used), limit)

    def show(self, device: str) -> str:
        """The shown name of any device string of TensorFlow."""
        name = device_name(device)
        return self.shown if name == self.logical else name


def configure_devices(
    device: str = "auto", gpu_memory_limit_mib: int | None = None, calls_at_once: int = 0
) -> Placement:
    """Choose the device and the number of threads once, before anything else uses TensorFlow.

    `calls_at_once`: functions of one model that run at once. TensorFlow runs the operations of all
    models on common threads, as many as there are cores; on a machine with few cores it gets more,
    so that operations of one model that cannot be ended leave some to the others.

    `device` is `auto` (the first GPU, else the CPU), `cpu` or `gpu:N`. GPU memory grows as it is
    needed, or is bounded by `gpu_memory_limit_mib`. Raises ModelLoadError when there is no such
    device, ValueError when `device` or the limit is not one of these.
    """
    wanted = device.strip().lower()
    match = re.fullmatch(r"gpu:(\d+)", wanted)
    if wanted not in ("auto", "cpu") and match is None:
        raise ValueError(f"device: expected auto, cpu or gpu:N, found {device!r}")
    if gpu_memory_limit_mib is not None and gpu_memory_limit_mib < 1:
        raise ValueError(f"GPU memory limit: expected at least 1 MiB, found {gpu_memory_limit_mib}")

    threads = calls_at_once + _SPARE_THREADS
    if calls_at_once and threads > len(os.sched_getaffinity(0)):
        _set_before_use(lambda: tf.config.threading.set_inter_op_parallelism_threads(threads))
    gpus = tf.config.list_physical_devices("GPU")
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        # A GPU that stays visible would be initialised, and its memory taken, for nothing.
        _set_before_use(lambda: tf.config.set_visible_devices([], "GPU"))
        return Placement()
    number = int(match[1]) if match else 0
    if number >= len(gpus):
        there = ", ".join(f"gpu:{n}" for n in range(len(gpus))) or "no GPU"
        raise ModelLoadError(f"device gpu:{number} is not there; found {there} and the CPU")

    def settings() -> None:
        tf.config.set_visible_devices([gpus[number]], "GPU")
        if gpu_memory_limit_mib is None:
            tf.config.experimental.set_memory_growth(gpus[number], True)
        else:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=gpu_memory_limit_mib)
            tf.config.set_logical_device_configuration(gpus[number], [limit])

    _set_before_use(settings)
    return Placement(logical="GPU:0", shown=f"GPU:{number}")


def _set_before_use(settings: Any) -> None:
    try:
        settings()
    except RuntimeError as error:
        raise ModelLoadError(
            "devices must be configured before anything else uses TensorFlow in this process"
        ) from error
