"""What can be seen of the service from outside: metrics for Prometheus, traces and logs for OTLP.

prometheus_client and opentelemetry live only here. Knows the core; knows nothing of gRPC,
TensorFlow or disk: what it is told of calls has the shape of `telemetry.words`.
"""

from .state import Sources
from .telemetry import Telemetry

__all__ = ["Sources", "Telemetry"]
