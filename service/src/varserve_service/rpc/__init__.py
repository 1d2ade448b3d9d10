"""gRPC: check, call the core, translate. Knows the contract and the core; no TensorFlow or disk."""

from .access import OPEN, Access
from .admission import Limit
from .auditing import Auditing
from .authentication import CallerAuthenticator
from .batching import BatchOptions, unfit
from .observing import methods
from .server import Server, ServerOptions
from .warm_up import run_everything, run_requests

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
