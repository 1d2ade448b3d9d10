"""The one place that wires the rooms together: settings in, a running service out."""

from .serving import serve

__all__ = ["serve"]
