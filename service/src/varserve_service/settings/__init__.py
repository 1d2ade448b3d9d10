"""The settings of an operator: by flag, by environment (`VARSERVE_...`), or by a YAML file.

A flag overrides the environment, the environment the file, and the file the defaults here.
"""

from .fields import DENIED_OPERATIONS, Settings
from .reading import health_address, load_settings

__all__ = ["DENIED_OPERATIONS", "Settings", "health_address", "load_settings"]
