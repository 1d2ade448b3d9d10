"""The life of models while the service runs: loading, replacing, unloading, saving, watching.

Knows the core and the repository. What it needs of the other rooms it is given by `bootstrap`.
"""

from .allowed import AllowedModels
from .manager import Front, Lifecycle, LifecycleOptions, SwitchOrder
from .polling import Poller
from .saving import Saver, SaveRoom

__all__ = [
    "AllowedModels",
    "Front",
    "Lifecycle",
    "LifecycleOptions",
    "Poller",
    "SaveRoom",
    "Saver",
    "SwitchOrder",
]
