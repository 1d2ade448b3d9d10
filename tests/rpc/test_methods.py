"""The table of methods against the descriptors of the services."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import grpc
import pytest

import varserve.v1
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve_service.rpc.methods import FACADES
from varserve_service.rpc.methods import METHODS as OWN
from varserve_service.rpc.row import Row

METHODS = (*OWN, *(row for rows in FACADES.values() for row in rows))

SERVICES = [
    service
    for module in pkgutil.iter_modules(varserve.v1.__path__)
    if module.name.endswith("_pb2")
    for service in importlib.import_module(
        f"varserve.v1.{module.name}"
    ).DESCRIPTOR.services_by_name.values()
]
# Other services may be served through the same table: of each of them every method has a row.
SERVICES += [
    service
    for service in {row.descriptor.containing_service for row in METHODS}
    if service.full_name not in {known.full_name for known in SERVICES}
]


def test_every_method_has_one_row() -> None:
    """A method of the contract without a row fails here; so does one with two."""
    described = [method.full_name for service in SERVICES for method in service.methods]
    assert len(described) >= 18
    assert sorted(row.method.full_name for row in METHODS) == sorted(described)


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.method.name)
def test_every_repeated_field_has_a_bound(row: Row) -> None:
    """The row bounds each repeated field of its request, and a stream's row reads its opening."""
    descriptor: Any = row.descriptor.input_type
    if row.opening is not None:
        descriptor = descriptor.fields_by_name["manifest"].message_type
    repeated = {field.name for field in descriptor.fields if field.is_repeated}
    assert repeated == set(row.bounds)


def test_what_the_table_does_not_have_is_not_answered() -> None:
    """Any other method is UNIMPLEMENTED, also one of a service that is served."""
    with serve_here(counter()) as address, grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/varserve.v1.ModelService/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
