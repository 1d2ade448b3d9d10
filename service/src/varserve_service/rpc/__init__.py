"""gRPC: check, call the core, translate. Knows the contract and the core; no TensorFlow or disk."""

from .entry.admission import Limit
from .entry.authentication import CallerAuthenticator
from .entry.observing import methods
from .guard.access import OPEN, Access
from .guard.auditing import Auditing
from .server import Server, ServerOptions
from .serving.batching import BatchOptions, unfit
from .serving.warm_up import run_everything, run_requests

__all__ = [
    "OPEN",
    "Access",
    "Auditing",
    "BatchOptions",
    "CallerAuthenticator",
    "Limit",
    "Server",
    "ServerOptions",
    "methods",
    "run_everything",
    "run_requests",
    "unfit",
]
