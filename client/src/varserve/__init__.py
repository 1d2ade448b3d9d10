"""varserve: read, assign and run the live state of served TensorFlow models, with numpy alone.

    with varserve.connect("localhost:8500") as client:
        model = client.model("basic_pitch")
        kernel = model.variables["conv2d_1/kernel"]
        kernel.assign(kernel.numpy() * 2)
        notes = model.functions["serving_default"](input_2=audio)

`varserve.aio.connect` gives the same with `await`. Every failure is a `VarserveError`.
"""

# Nothing is imported before something of it is used: a shell that completes names, and the service,
# which takes the contract alone from here, need no client, and a client needs no more than its
# calls do.

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import aio as aio
    from . import tensors as tensors
    from ._public import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    if name == "__all__":
        return __dir__()
    if name.startswith("_"):
        raise AttributeError(f"module 'varserve' has no attribute {name!r}")
    # A module of its own comes without the client.
    if name.islower() and find_spec(f"varserve.{name}") is not None:
        return import_module(f"varserve.{name}")
    home = import_module("varserve._public").HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'varserve' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home, "varserve"), name)
    return value


def __dir__() -> list[str]:
    from ._public import HOMES

    return sorted({*HOMES, "aio"})
