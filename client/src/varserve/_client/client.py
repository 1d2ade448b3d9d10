"""The client: models by name, and a flat method for every RPC.

Owns `connect` and what a connection is configured with. One class serves both drivers: what it
returns is a value from `varserve.connect`, and to be awaited from `varserve.aio.connect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import numpy.typing as npt

from varserve import tensors
from varserve._client import errors
from varserve._client.handles.base import Connection, Defaults
from varserve._client.handles.cache import ModelCache, sent_as
from varserve._client.handles.functions import constant_of
from varserve._client.handles.models import Model, Reads
from varserve._client.handles.watches import PATIENCE, Watch, watching
from varserve._client.operations import calls as operations
from varserve._client.operations import history
from varserve._client.operations.calls import (
    AssignOperation,
    Conditions,
    Prepared,
    Run,
    Write,
    new_request_id,
    operation_of,
)
from varserve._client.operations.summaries import Summaries, histogram_spec, summarize_variables
from varserve._client.transport.channels import channel_options
from varserve._client.transport.credentials import Tls, Token, check_token
from varserve._client.transport.drivers import (
    Async,
    Budget,
    D_co,
    Dial,
    Op,
    Sync,
    operation,
    seconds,
)
from varserve._client.values.regions import Index, Rows, resolve
from varserve._client.values.results import Commit, Commits, Outputs, Reading, Snapshot
from varserve._client.values.specs import ModelSpec, ModelSummary, TransferLimits, Value

T = TypeVar("T")


class Client(Connection[D_co]):
    """A connection to one service. Made by `connect`; closed by `close`, or by its `with` block.

    The flat methods are the RPCs one by one; the handles that `model` leads to choose among them.
    All raise VarserveError and nothing else of the wire.
    """

    def __init__(self, driver: Sync | Async, defaults: Defaults) -> None:
        self._driver = driver
        self._defaults = defaults
        self._limits: dict[str, TransferLimits] = {}

    @operation
    def models(self, *, timeout: float | None = None) -> Op[list[ModelSummary]]:
        """The models that are served, sorted by name."""
        return operations.list_models(self._budget(timeout))

    list_models = models

    @operation
    def model(self, name: str, *, timeout: float | None = None) -> Op[Model[D_co]]:
        """A handle of one model, with all that it is now. Raises ModelNotFound, ModelNotReady."""
        spec = yield from self._get_model(name, self._budget(timeout))
        return Model(self._driver, ModelCache(spec, name), self._defaults)

    @operation
    def wait_ready(self, model: str = "", *, timeout: float = 60.0) -> Op[None]:
        """Wait until the service, or one model of it, is ready. Raises DeadlineExceeded."""
        return operations.wait_ready(model, self._budget(timeout))

    # ---- one method for each RPC ----

    @operation
    def get_model(self, model: str, *, timeout: float | None = None) -> Op[ModelSpec]:
        """GetModel: all variables and functions of a model."""
        return self._get_model(model, self._budget(timeout))

    @operation
    def read_variable(
        self,
        model: str,
        variable: str,
        *,
        region: Index | Rows | None = None,
        if_newer_than: int | None = None,
        at_revision: int | None = None,
        epoch: str = "",
        dtype: npt.DTypeLike | None = None,
        timeout: float | None = None,
    ) -> Op[Reading]:
        """ReadVariable: one variable or a region of it, in one message.

        region: an index that counts nothing from the end, or Rows.
        if_newer_than: no value when the last write is not newer than this revision.
        at_revision: the value as it was then. epoch: in which either was learnt.
        dtype: a float value as another float dtype, cast before it travels.
        Raises CastUnsupported, and MessageTooLarge: then `read_variables`.
        """
        return operations.read_variable(
            model,
            variable,
            resolve(region),
            self._budget(timeout),
            if_newer_than=if_newer_than,
            at_revision=at_revision,
            epoch=epoch,
            dtype=sent_as(dtype),
        )

    @operation
    def read_variables(
        self,
        model: str,
        variables: Reads,
        *,
        at_revision: int | None = None,
        epoch: str = "",
        dtypes: Mapping[str, npt.DTypeLike] | None = None,
        timeout: float | None = None,
    ) -> Op[Snapshot]:
        """ReadVariables: several variables at one revision, of any size.

        at_revision: the values as they were then, in this epoch if it is given.
        dtypes: by name, float values as another float dtype, cast before they travel.
        The default deadline knows nothing of the size: give one for what is large.
        """
        wanted = variables if isinstance(variables, Mapping) else dict.fromkeys(variables)
        reads = {name: (name, resolve(region)) for name, region in wanted.items()}
        budget = self._budget(timeout)
        limits = yield from self._transfer_limits(model, budget)
        return (
            yield from operations.read_variables(
                model,
                reads,
                limits.chunk_bytes,
                budget,
                at_revision=at_revision,
                epoch=epoch,
                dtypes={name: sent_as(dtype) for name, dtype in (dtypes or {}).items()},
            )
        )

    @operation
    def summarize_variables(
        self,
        model: str,
        variables: Reads,
        *,
        bins: int = 0,
        range: tuple[float, float] | None = None,
        content_hash: bool = True,
        at_revision: int | None = None,
        epoch: str = "",
        timeout: float | None = None,
    ) -> Op[Summaries]:
        """SummarizeVariables: several variables at one revision in a few numbers each.

        variables: names or paths; in a mapping, each with a region or None. The rest: as of
        `Variable.summary`. The default deadline knows nothing of the size.
        """
        wanted = variables if isinstance(variables, Mapping) else dict.fromkeys(variables)
        return summarize_variables(
            model,
            {name: (name, resolve(region)) for name, region in wanted.items()},
            self._budget(timeout),
            histogram_spec(bins, range),
            content_hash=content_hash,
            at_revision=at_revision,
            epoch=epoch,
        )

    @operation
    def assign_variable(
        self,
        model: str,
        variable: str,
        value: npt.ArrayLike,
        *,
        operation: AssignOperation | str = AssignOperation.SET,
        region: Index | Rows | None = None,
        request_id: str | None = None,
        if_revision_match: int | None = None,
        if_model_revision_match: int | None = None,
        if_epoch_match: str = "",
        read_back: bool = False,
        message: str = "",
        lease_seconds: float = 0,
        timeout: float | None = None,
    ) -> Op[Commit]:
        """AssignVariable: one variable or a region of it, in one message.

        value: an array of the variable's dtype. request_id: made when None; "" for none, and then
        no retry. message: why. lease_seconds: above 0, the write is taken back after so long unless
        `renew_lease` is called in time with its revision.
        """
        return operations.assign_variable(
            model,
            _prepared(Write(variable, value, operation, region, if_revision_match)),
            self._budget(timeout),
            _conditions(request_id, if_model_revision_match, if_epoch_match, message),
            read_back=read_back,
            lease_seconds=lease_seconds,
        )

    @operation
    def assign_variables(
        self,
        model: str,
        writes: Iterable[Write] | Mapping[str, npt.ArrayLike],
        *,
        request_id: str | None = None,
        if_model_revision_match: int | None = None,
        if_epoch_match: str = "",
        message: str = "",
        lease_seconds: float = 0,
        timeout: float | None = None,
    ) -> Op[Commit]:
        """AssignVariables: several variables as one commit, of any size.

        writes: `Write` objects, or a mapping from name to the whole value. The rest: as of
        `assign_variable`.
        """
        if isinstance(writes, Mapping):
            writes = [Write(name, value) for name, value in writes.items()]
        changes = [_prepared(each) for each in writes]
        budget = self._budget(timeout, [each.value for each in changes])
        limits = yield from self._transfer_limits(model, budget)
        conditions = _conditions(request_id, if_model_revision_match, if_epoch_match, message)
        return (
            yield from operations.assign_variables(
                model,
                changes,
                limits.chunk_bytes,
                budget,
                conditions,
                lease_seconds=lease_seconds,
            )
        )

    @operation
    def run_function(
        self,
        model: str,
        function: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        constants: Mapping[str, Value] | None = None,
        outputs: Sequence[str] = (),
        repeatable: bool = False,
        request_id: str | None = None,
        if_model_revision_match: int | None = None,
        if_epoch_match: str = "",
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Outputs]:
        """RunFunction: one call, in one message each way.

        inputs: arrays of the inputs' dtypes, by flat name. repeatable: the function changes
        nothing, or variables only; then a call is sent again when its connection broke.
        Raises MessageTooLarge: then `stream_run_function`.
        """
        run = _run(function, inputs, constants, outputs, repeatable)
        conditions = _conditions(request_id, if_model_revision_match, if_epoch_match, message)
        return operations.run_function(model, run, self._budget(timeout), conditions)

    @operation
    def stream_run_function(
        self,
        model: str,
        function: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        constants: Mapping[str, Value] | None = None,
        outputs: Sequence[str] = (),
        repeatable: bool = False,
        request_id: str | None = None,
        if_model_revision_match: int | None = None,
        if_epoch_match: str = "",
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Outputs]:
        """StreamRunFunction: `run_function` with inputs and outputs of any size."""
        run = _run(function, inputs, constants, outputs, repeatable)
        budget = self._budget(timeout, list(run.inputs.values()))
        limits = yield from self._transfer_limits(model, budget)
        conditions = _conditions(request_id, if_model_revision_match, if_epoch_match, message)
        return (
            yield from operations.stream_run_function(
                model, run, limits.chunk_bytes, budget, conditions
            )
        )

    @operation
    def watch_variables(
        self,
        model: str,
        patterns: str | Iterable[str] = (),
        *,
        after_revision: int | None = None,
        epoch: str = "",
        values: bool = True,
        previous: bool = False,
        timeout: float | None = None,
        patience: float = PATIENCE,
    ) -> Op[Watch[D_co]]:
        """WatchVariables: the commits after a revision, or from now on; see `Model.watch`."""
        limits = yield from self._transfer_limits(model, self._budget(None))
        request = history.watch_request(model, after_revision, epoch, patterns, values, previous)
        return (
            yield from watching(
                self._driver, request, limits.chunk_bytes, self._defaults, timeout, patience
            )
        )

    @operation
    def list_commits(
        self,
        model: str,
        patterns: str | Iterable[str] = (),
        *,
        limit: int = 100,
        before: int | None = None,
        timeout: float | None = None,
    ) -> Op[Commits]:
        """ListCommits: the last commits, the newest first; see `Model.commits`."""
        return history.list_commits(
            model, limit, before, history.patterns_of(patterns), self._budget(timeout)
        )

    @operation
    def revert_commits(
        self,
        model: str,
        revision: int,
        variables: Iterable[str] = (),
        *,
        request_id: str | None = None,
        if_model_revision_match: int | None = None,
        if_epoch_match: str = "",
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """RevertCommits: the values of a revision, as a new commit; see `Model.revert`."""
        conditions = _conditions(request_id, if_model_revision_match, if_epoch_match, message)
        return history.revert_commits(
            model, revision, list(variables), self._budget(timeout), conditions
        )

    @operation
    def renew_lease(
        self, model: str, lease: int, *, epoch: str = "", timeout: float | None = None
    ) -> Op[float]:
        """RenewLease: let a lease last; the seconds that it does from now on.

        lease: revision of the write that it came with. Raises LeaseNotFound, EpochMismatch.
        """
        return history.renew_lease(model, lease, epoch, self._budget(timeout))

    @operation
    def revoke_lease(
        self,
        model: str,
        lease: int,
        *,
        epoch: str = "",
        keep: bool = False,
        timeout: float | None = None,
    ) -> Op[Commit]:
        """RevokeLease: take back what the lease's write left; with `keep`, let it stay for good."""
        return history.revoke_lease(model, lease, epoch, keep, self._budget(timeout))

    def _budget(self, timeout: float | None, values: Sequence[tensors.Array] = ()) -> Budget:
        return self._defaults.budget(timeout, sum(tensors.body_length(each) for each in values))

    def _get_model(self, model: str, budget: Budget) -> Op[ModelSpec]:
        spec = yield from operations.get_model(model, budget)
        self._limits[model] = spec.limits
        return spec

    def _transfer_limits(self, model: str, budget: Budget) -> Op[TransferLimits]:
        limits = self._limits.get(model)
        return limits or (yield from self._get_model(model, budget)).limits


def _prepared(write: Write) -> Prepared:
    with errors.about(f"variable {write.variable!r}", variable=write.variable):
        part = resolve(write.region)
        value = part.fit(tensors.as_array(write.value))
    operation = operation_of(write.operation)
    return Prepared(write.variable, value, operation, part, write.if_revision_match)


def _conditions(
    request_id: str | None, revision: int | None, epoch: str, message: str
) -> Conditions:
    made = new_request_id() if request_id is None else request_id
    return Conditions(made, revision, epoch, message)


def _run(
    function: str,
    inputs: Mapping[str, npt.ArrayLike],
    constants: Mapping[str, Value] | None,
    outputs: Sequence[str],
    repeatable: bool,
) -> Run:
    arrays = {}
    for name, value in inputs.items():
        with errors.about(f"function {function!r}: input {name!r}", function=function, input=name):
            arrays[name] = tensors.as_array(value)
    return Run(
        function,
        arrays,
        {name: constant_of(value) for name, value in (constants or {}).items()},
        tuple(outputs),
        repeatable,
    )


_URLS = ("http://", "https://", "grpc://")


def make(
    driver: type[Sync] | type[Async],
    target: str,
    *,
    timeout: float,
    retries: int,
    tls: Tls | bool,
    token: Token | None,
    credentials: grpc.ChannelCredentials | None,
    metadata: Sequence[tuple[str, str | bytes]],
    options: Sequence[tuple[str, Any]],
    round_robin: bool | None,
    wait_for_ready: bool,
    of: Callable[[Any, Defaults], T],
) -> T:
    """A client on a driver; `of` is the class."""
    given: Any = target
    if not isinstance(given, str) or not given.isprintable() or given.startswith(_URLS):
        raise errors.InvalidRequest(f"expected HOST:PORT, found {errors.shown(target)}")
    tls = Tls() if tls is True else tls
    if tls:
        if credentials is not None:
            raise errors.InvalidRequest("expected tls or credentials, found both")
        credentials, options = tls.credentials(), (*tls.options(), *options)
    check_token(token, target, credentials is not None)
    if token is not None and credentials is None:
        # Loopback is no loopback through a proxy that the environment names.
        options = (*options, ("grpc.enable_http_proxy", 0))
    ours = channel_options(target, round_robin)
    dial = Dial(
        target,
        credentials,
        (*ours, *options),
        tuple(metadata),
        token,
        wait_for_ready=wait_for_ready,
    )
    return of(driver(dial), Defaults(seconds(timeout), retries))


def connect(
    target: str,
    *,
    timeout: float = 30.0,
    retries: int = 4,
    tls: Tls | bool = False,
    token: Token | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Sequence[tuple[str, str | bytes]] = (),
    options: Sequence[tuple[str, Any]] = (),
    round_robin: bool | None = None,
    wait_for_ready: bool = False,
) -> Client[Sync]:
    """A client of the service at `HOST:PORT`, or at any target that gRPC knows.

    Connects at the first call; threads may share it.

    timeout: seconds that a call may take; one that moves bytes has one more for every 8 MiB.
    retries: how often a call that may safely be repeated is, within its timeout.
    tls: whom to believe and what to show; True: as public authorities say; False: plaintext.
    token: a bearer token, or what gives the present one, which is asked before every attempt of
        every call and must be quick. Without TLS only to loopback.
    credentials: of gRPC, where `tls` does not say it.
    metadata: sent with every call.
    options: gRPC channel arguments, after the client's own.
    round_robin: calls go to all servers of the target in turn, as long as they say that they are
        serving; else to one of them. None: for a target that is written with its scheme, as
        `dns:///HOST:PORT` is. Each server has a state of its own: to write, connect to one.
    wait_for_ready: while nobody can be reached, calls wait, as long as their timeout; else they
        fail after some retries.
    """
    return make(
        Sync,
        target,
        timeout=timeout,
        retries=retries,
        tls=tls,
        token=token,
        credentials=credentials,
        metadata=metadata,
        options=options,
        round_robin=round_robin,
        wait_for_ready=wait_for_ready,
        of=Client[Sync],
    )
