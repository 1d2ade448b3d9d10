"""gRPC: check, call the core, translate. Knows the contract and the core; no TensorFlow or disk."""

from .server import Server, ServerOptions

__all__ = ["Server", "ServerOptions"]
