"""gRPC: check, call the core, translate. Knows the contract and the core; no TensorFlow or disk."""

from .admission import Limit
from .batching import BatchOptions, unfit
from .server import Server, ServerOptions
from .warm_up import run_everything, run_requests

__all__ = [
    "BatchOptions",
    "Limit",
    "Server",
    "ServerOptions",
    "run_everything",
    "run_requests",
    "unfit",
]
