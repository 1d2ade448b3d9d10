"""TensorFlow's Examples, encoded without TensorFlow.

The messages in `v1` are TensorFlow's own under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from varserve.examples.v1 import example_pb2 as pb


def encode(features: Mapping[str, Any]) -> bytes:
    """One Example. A feature is a value or a flat list: of integers, of numbers, or of bytes.

    Integers are an Int64List, and with other numbers among them a FloatList.
    Raises ValueError that names the feature.
    """
    example = pb.Example()
    for name, given in features.items():
        values = given if isinstance(given, list) else [given]
        feature = example.features.feature[name]
        kinds = {type(value) for value in values}
        try:
            if kinds <= {int} and kinds:
                feature.int64_list.value.extend(values)
            elif kinds <= {int, float}:
                # Also of no values at all, which are of no kind.
                feature.float_list.value.extend(values)
            elif kinds == {bytes}:
                feature.bytes_list.value.extend(values)
            else:
                raise TypeError("expected numbers alone, or texts and bytes alone")
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"feature {name[:200]!r}: {error}") from None
    encoded: bytes = example.SerializeToString(deterministic=True)
    return encoded
