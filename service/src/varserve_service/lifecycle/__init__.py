"""The life of models while the service runs: load, replace, unload, save, poll.

Knows the core and the repository. `bootstrap` gives it what it needs of other rooms.
"""

from .allowed import AllowedModels
from .loading import Front, LifecycleOptions, SwitchOrder
from .manager import Lifecycle
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
