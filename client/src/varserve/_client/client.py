"""The client: models by name, and a flat method for every RPC.

One class serves both drivers: what it returns is a value from `varserve.connect`, and to be awaited
from `varserve.aio.connect`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import operations, values
from .handles.base import Connection, D_co, Defaults, operation
from .transport.calls import Budget, Op
from .transport.drivers import Async, Sync
from .transport.retries import PATIENCE
from .values.assign_operation import AssignOperation

if TYPE_CHECKING:
    # The rest is imported by the first method that needs it.
    import numpy.typing as npt

    from varserve.tensors import Array

    from .handles.models import Model
    from .handles.watches import Watch
    from .operations.methods import Scope
    from .values.arguments import Given
    from .values.inspections import InnerTensors, Inspection, Patch
    from .values.options import WriteOptions
    from .values.regions import Index, Reads, Rows
    from .values.results import Commit, Commits, Outputs, Reading, Snapshot
    from .values.specs import ModelSpec, ModelSummary, TransferLimits, Value
    from .values.summaries import Summaries
    from .values.writes import Write


class Client(Connection[D_co]):
    """A connection to one service. Made by `connect`; closed by `close`, or by its `with` block.

    The flat methods are the RPCs one by one; the handles that `model` leads to choose among them.
    All raise VarserveError and nothing else of the wire.
    """

    def __init__(self, driver: Sync | Async, defaults: Defaults) -> None:
        super().__init__(driver, defaults)
        self._limits: dict[str, TransferLimits] = {}

    @operation
    def models(self, *, timeout: float | None = None) -> Op[list[ModelSummary]]:
        """The models that are served, sorted by name."""
        return operations.list_models(self._budget(timeout))

    list_models = models

    @operation
    def model(self, name: str, *, timeout: float | None = None) -> Op[Model[D_co]]:
        """A handle of one model, with all that it is now. Raises ModelNotFound, ModelNotReady."""
        from .handles.cache import ModelCache
        from .handles.models import Model

        spec = yield from self._get_model(name, self._budget(timeout))
        return Model(self._driver, ModelCache(spec, name, self._defaults.seen), self._defaults)

    @operation
    def service_version(self, *, timeout: float | None = None) -> Op[str]:
        """The version of the service, such as "0.1.0"; "" of an older one, which does not tell."""
        return operations.service_version(self._budget(timeout))

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
        min_revision: int = 0,
        linearizable: bool = False,
        dtype: npt.DTypeLike | None = None,
        timeout: float | None = None,
    ) -> Op[Reading]:
        """ReadVariable: one variable or a region of it, in one message.

        region: an index that counts nothing from the end, or Rows.
        if_newer_than: no value when the last write is not newer than this revision.
        at_revision: the value as it was then. epoch: in which either was learnt.
        min_revision: not older than this; what this client has seen counts anyway. linearizable:
            not older than any write that completed before, at any replica of the service.
        dtype: a float value as another float dtype, cast before it travels.
        Raises CastUnsupported, and MessageTooLarge: then `read_variables`.
        """
        return operations.read_variable(
            self._of(model, timeout),
            operations.Read(variable, values.resolve(region), operations.cast_dtype(dtype)),
            values.ReadOptions(at_revision, epoch, min_revision, linearizable),
            if_newer_than=if_newer_than,
        )

    @operation
    def read_variables(
        self,
        model: str,
        variables: Reads,
        *,
        at_revision: int | None = None,
        epoch: str = "",
        min_revision: int = 0,
        linearizable: bool = False,
        dtypes: Mapping[str, npt.DTypeLike] | None = None,
        timeout: float | None = None,
    ) -> Op[Snapshot]:
        """ReadVariables: several variables at one revision, of any size.

        at_revision: the values as they were then, in this epoch if it is given.
        min_revision, linearizable: as of `read_variable`.
        dtypes: by name, float values as another float dtype, cast before they travel.
        The default deadline knows nothing of the size: give one for what is large.
        """
        casts = {name: operations.cast_dtype(dtype) for name, dtype in (dtypes or {}).items()}
        reads = {
            name: operations.Read(name, values.resolve(region), casts.get(name))
            for name, region in values.regions_of(variables).items()
        }
        scope = yield from self._scope(model, self._budget(timeout))
        return (
            yield from operations.read_variables(
                scope, reads, values.ReadOptions(at_revision, epoch, min_revision, linearizable)
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
        min_revision: int = 0,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Op[Summaries]:
        """SummarizeVariables: several variables at one revision in a few numbers each.

        variables: names or paths; in a mapping, each with a region or None. The rest: as of
        `Variable.summary`. The default deadline knows nothing of the size.
        """
        return operations.summarize_variables(
            self._of(model, timeout),
            {
                name: operations.Read(name, values.resolve(region))
                for name, region in values.regions_of(variables).items()
            },
            operations.SummaryOptions(bins, range, content_hash),
            values.ReadOptions(at_revision, epoch, min_revision, linearizable),
        )

    @operation
    def list_tensors(
        self,
        model: str,
        function: str,
        patterns: Sequence[str] = (),
        *,
        overload: int = 0,
        timeout: float | None = None,
    ) -> Op[InnerTensors]:
        """ListTensors: the tensors in the middle of a function; see `Function.tensors`."""
        scope = self._of(model, timeout)
        return operations.list_tensors(scope, function, patterns, overload)

    @operation
    def inspect_function(
        self,
        model: str,
        function: str,
        inputs: Mapping[str, npt.ArrayLike],
        constants: Mapping[str, Any] | None = None,
        *,
        probes: Sequence[str] = (),
        summarize: bool | int | None = None,
        patches: Mapping[str, Patch | Array] | None = None,
        assume: Mapping[str, Array] | None = None,
        at_revision: int | None = None,
        epoch: str = "",
        gradients_of: str = "",
        wrt: Sequence[str] = (),
        find_non_finite: bool = False,
        profile: bool = False,
        continue_after_assertion: bool = False,
        open_xla: bool = False,
        timeout: float | None = None,
    ) -> Op[Inspection]:
        """InspectFunction: a look at one run of a function; see `Function.inspect`.

        Values are arrays of the dtypes that the service expects.
        """
        wanted = operations.Wanted(
            probes,
            operations.summary_options(summarize),
            patches or {},
            assume or {},
            gradients_of,
            wrt,
            find_non_finite,
            profile,
            continue_after_assertion,
            open_xla,
        )
        run = values.prepare_run(function, inputs, constants or {}, (), repeatable=True)
        scope = yield from self._scope(model, self._budget(timeout))
        options = values.ReadOptions(at_revision, epoch)
        return (yield from operations.inspect_function(scope, run, wanted, options))

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
        check: Given | None = None,
        timeout: float | None = None,
    ) -> Op[Commit]:
        """AssignVariable: one variable or a region of it, in one message.

        value: an array of the variable's dtype. request_id: made when None; "" for none, and then
        no retry. message: why. lease_seconds: above 0, the write is taken back after so long unless
        `renew_lease` is called in time with its revision. check: what must pass with the new value
        before the commit is made; see `Model.transaction`.
        """
        return operations.assign_variable(
            self._of(model, timeout),
            values.prepare(values.Write(variable, value, operation, region, if_revision_match)),
            _write_options(
                request_id,
                if_model_revision_match,
                if_epoch_match,
                message,
                lease_seconds,
                read_back,
                check,
            ),
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
        check: Given | None = None,
        timeout: float | None = None,
    ) -> Op[Commit]:
        """AssignVariables: several variables as one commit, of any size.

        writes: `Write` objects, or a mapping from name to the whole value. The rest: as of
        `assign_variable`.
        """
        changes = [values.prepare(each) for each in values.writes_of(writes)]
        budget = self._budget(timeout, sum(each.nbytes for each in changes))
        scope = yield from self._scope(model, budget)
        options = _write_options(
            request_id,
            if_model_revision_match,
            if_epoch_match,
            message,
            lease_seconds,
            False,
            check,
        )
        return (yield from operations.assign_variables(scope, changes, options))

    @operation
    def run_function(
        self,
        model: str,
        function: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        constants: Mapping[str, Value] | None = None,
        outputs: Sequence[str] = (),
        messages: bool = False,
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
        messages: give the lines that it prints, as `Outputs.messages`.
        Raises MessageTooLarge: then `stream_run_function`.
        """
        return operations.run_function(
            self._of(model, timeout),
            values.prepare_run(function, inputs, constants or {}, outputs, repeatable, messages),
            _write_options(
                request_id,
                if_model_revision_match,
                if_epoch_match,
                message,
            ),
        )

    @operation
    def stream_run_function(
        self,
        model: str,
        function: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        constants: Mapping[str, Value] | None = None,
        outputs: Sequence[str] = (),
        messages: bool = False,
        repeatable: bool = False,
        request_id: str | None = None,
        if_model_revision_match: int | None = None,
        if_epoch_match: str = "",
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Outputs]:
        """StreamRunFunction: `run_function` with inputs and outputs of any size."""
        run = values.prepare_run(function, inputs, constants or {}, outputs, repeatable, messages)
        scope = yield from self._scope(model, self._budget(timeout, run.nbytes))
        options = _write_options(
            request_id,
            if_model_revision_match,
            if_epoch_match,
            message,
        )
        return (yield from operations.stream_run_function(scope, run, options))

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
        from .handles.watches import watching

        scope = yield from self._scope(model, self._budget(None))
        request = operations.watch_request(model, after_revision, epoch, patterns, values, previous)
        return (
            yield from watching(
                self._driver,
                request,
                lambda budget: scope._replace(budget=budget),
                self._defaults,
                timeout,
                patience,
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
        return operations.list_commits(self._of(model, timeout), patterns, limit, before)

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
        options = _write_options(
            request_id,
            if_model_revision_match,
            if_epoch_match,
            message,
        )
        scope = self._of(model, timeout)
        return operations.revert_commits(scope, revision, list(variables), options)

    @operation
    def renew_lease(
        self, model: str, lease: int, *, epoch: str = "", timeout: float | None = None
    ) -> Op[float]:
        """RenewLease: let a lease last; the seconds that it does from now on.

        lease: revision of the write that it came with. Raises LeaseNotFound, EpochMismatch.
        """
        return operations.renew_lease(self._of(model, timeout), lease, epoch)

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
        scope = self._of(model, timeout)
        return operations.revoke_lease(scope, lease, epoch, keep=keep)

    def _budget(self, timeout: float | None, nbytes: int = 0) -> Budget:
        return self._defaults.budget(timeout, nbytes)

    def _of(self, model: str, timeout: float | None) -> Scope:
        return operations.Scope(model, self._budget(timeout), self._defaults.seen)

    def _get_model(self, model: str, budget: Budget) -> Op[ModelSpec]:
        spec = yield from operations.get_model(operations.Scope(model, budget, self._defaults.seen))
        self._limits[model] = spec.limits
        return spec

    def _scope(self, model: str, budget: Budget) -> Op[Scope]:
        """Of an operation with a body, whose chunks are as large as the service says."""
        limits = self._limits.get(model)
        if limits is None:
            limits = (yield from self._get_model(model, budget)).limits
        return operations.Scope(model, budget, self._defaults.seen, limits)


def _write_options(request_id: str | None, *options: Any) -> WriteOptions:
    """`request_id` None: a new one."""
    return values.WriteOptions(
        values.new_request_id() if request_id is None else request_id, *options
    )
