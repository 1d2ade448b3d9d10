"""The one place that wires the rooms together: settings in, a running service out."""

from .serving import serve, try_out

__all__ = ["serve", "try_out"]
