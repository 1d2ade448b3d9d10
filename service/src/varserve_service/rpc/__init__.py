"""gRPC: check, call the core, translate. Knows the contract and the core; no TensorFlow or disk."""

from .authorization.access import OPEN, Access
from .authorization.auditing import Auditing
from .authorization.authentication import CallerAuthenticator
from .calls.admission import Limit
from .methods import methods
from .options import ServerOptions
from .server import Server
from .serving.batching import BatchOptions, batching_problem
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
    "batching_problem",
    "methods",
    "run_everything",
    "run_requests",
]
