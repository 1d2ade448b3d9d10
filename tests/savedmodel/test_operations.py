"""The list of what operations do, held against TensorFlow's registry."""

from __future__ import annotations

from typing import Any

import pytest

from varserve_service.savedmodel.operations import Kind, kind_of, takes_path

# What they call a path is none: statistics under a name.
NO_PATH = {"SetStatsAggregatorDataset", "ExperimentalSetStatsAggregatorDataset"}


def registered() -> list[Any]:
    """Every operation that this TensorFlow has, as an OpDef."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    found = pywrap_tf_session.TF_GetAllOpList()
    data = pywrap_tf_session.TF_GetBuffer(found)
    return list(op_def_pb2.OpList.FromString(data).op)


def string_names(op: Any) -> list[str]:
    inputs = [arg.name for arg in op.input_arg if arg.type == 7]
    return inputs + [attr.name for attr in op.attr if attr.type in ("string", "list(string)")]


def test_every_stateful_operation_has_its_kind() -> None:
    """Each operation that TensorFlow calls stateful is in the list; none is missing."""
    stateful = [op.name for op in registered() if op.is_stateful]
    assert len(stateful) > 400
    assert [name for name in stateful if kind_of(name) is None] == []


def test_every_operation_with_a_path_is_of_files() -> None:
    """Each operation with an input or attribute that names a file counts as one that uses files."""
    found = [op.name for op in registered() if takes_path(string_names(op))]
    assert len(found) > 30
    assert [n for n in found if kind_of(n) is not Kind.FILES and n not in NO_PATH] == []


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("ReadVariableOp", Kind.READS),
        ("LookupTableFindV2", Kind.READS),
        ("AssignAddVariableOp", Kind.CHANGES),
        ("ResourceApplyAdam", Kind.CHANGES),
        ("LookupTableInsertV2", Kind.CHANGES),
        ("QueueDequeueManyV2", Kind.CHANGES),
        ("Save", Kind.FILES),
        ("Restore", Kind.FILES),
        ("SnapshotDatasetV2", Kind.FILES),
        ("EagerPyFunc", Kind.PYTHON),
        ("DataServiceDatasetV4", Kind.NETWORK),
        ("RpcCall", Kind.NETWORK),
        ("RandomUniform", Kind.NONE),
        ("ShuffleDatasetV3", Kind.NONE),
        ("MatMul", None),
        ("SomebodysOwn", None),
    ],
)
def test_kinds(op: str, kind: Kind | None) -> None:
    """Operations of each kind, and one that the list does not know."""
    assert kind_of(op) is kind
