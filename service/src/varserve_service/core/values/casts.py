"""The dtypes that a value can be cast to when it is sent.

Knows the ports. Casts nothing itself.
"""

from __future__ import annotations

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value, Variable, VariableSpec

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Each of them can be sent as each other."""


def check_cast(spec: VariableSpec, dtype: str | None) -> None:
    """Raises RequestError CAST_UNSUPPORTED for a variable whose value cannot be sent as `dtype`.

    None, and the variable's own dtype: always can.
    """
    if dtype is None or dtype == spec.dtype or (dtype in FLOATS and spec.dtype in FLOATS):
        return
    expected = f"{', '.join(FLOATS)}" if spec.dtype in FLOATS else f"its own, {spec.dtype},"
    raise RequestError(
        Reason.CAST_UNSUPPORTED,
        f"variable {spec.name!r}: expected {expected} as the dtype to be sent, found {dtype}",
        variable=spec.name,
    )


def sent_as(variable: Variable, value: Value, dtype: str | None) -> Value:
    """A value of the variable as it is to be sent."""
    return value if dtype is None or dtype == value.dtype else variable.cast(value, dtype)
