"""The calls of ModelService that follow, explain and undo: check, call the core, translate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from varserve.v1 import history_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Origin
from varserve_service.rpc.authorization.auditing import listener_of
from varserve_service.rpc.authorization.guard import sight_of
from varserve_service.rpc.authorization.watch_permit import WatchPermit
from varserve_service.rpc.entry.identity import subject_of
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.history_messages import WatchFilter, page
from varserve_service.rpc.serving.calls import Context, deadline_of, fingerprint
from varserve_service.rpc.serving.served import Serving
from varserve_service.rpc.serving.watching import Watch

T = TypeVar("T")

MAX_PATTERNS = 100
# Characters of one. To compile one takes the square of them where brackets are open.
MAX_PATTERN = 512
DEFAULT_COMMITS, MAX_COMMITS = 100, 1000

# What a message needs beside the changes or commits in it.
_ENVELOPE_BYTES = 64 * 1024
# Seconds at shutdown for watchers to take note that it is over.
_CLOSE_SECONDS = 1.0


class HistoryService:
    """Handlers, one for each RPC, that take request bytes and give or write response messages."""

    def __init__(
        self,
        serving: Serving,
        senders: Executor,
        message_bytes: int,
        bookmark_seconds: float,
    ) -> None:
        self._serving = serving
        self._senders = senders
        self._max_bytes = message_bytes - _ENVELOPE_BYTES
        self._bookmark_seconds = bookmark_seconds
        self._watches: set[asyncio.Task[None]] = set()

    async def watch_variables(self, data: bytes, context: Context) -> None:
        """WatchVariables."""
        request = pb.WatchVariablesRequest.FromString(data)
        _check_patterns(request.patterns)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            with self._serving.use(request.model, watch=True) as served:
                live, workers, deadline = served.live, served.watch_workers, deadline_of(context)
                hub = served.hub(self._senders, self._max_bytes)
                permit = WatchPermit(sight_of(context), live, request)
                paths = await workers.run(permit.select, deadline)
                wish = WatchFilter(paths, request.values, request.previous_values)
                after = translate.optional(request, "after_revision")
                watch = Watch(live, hub, context, wish, self._bookmark_seconds, permit.check)
                await watch.run(after, request.epoch, workers, deadline)
        finally:
            self._watches.discard(task)

    async def close(self) -> None:
        """End all watches: each is told, and one that does not listen is cut off."""
        for served in self._serving.all:
            served.end_watches(_shutting_down)
        if self._watches:
            _, deaf = await asyncio.wait(set(self._watches), timeout=_CLOSE_SECONDS)
            for task in deaf:
                task.cancel()

    async def list_commits(self, data: bytes, context: Context) -> pb.ListCommitsResponse:
        """ListCommits."""
        request = pb.ListCommitsRequest.FromString(data)
        _check_patterns(request.patterns)
        limit = request.max_commits or DEFAULT_COMMITS
        if not 0 < limit <= MAX_COMMITS:
            raise translate.malformed(f"max_commits: expected 0 to {MAX_COMMITS}, found {limit}")
        sight = sight_of(context)

        def work(live: LiveModel, deadline: float | None) -> pb.ListCommitsResponse:
            timeline, labels = live.timeline, live.timeline.display_names
            among = None if sight is None else sight.variables(Verb.WATCH, live)
            found = timeline.commits(
                limit,
                before=translate.optional(request, "before_revision"),
                paths=timeline.select(request.patterns, among),
                deadline=deadline,
            )
            if among is not None:
                labels = {path: label for path, label in labels.items() if path in among}
            return page(found, labels, self._max_bytes)

        return await self._on_model(request.model, context, work)

    async def revert_commits(self, data: bytes, context: Context) -> pb.RevertCommitsResponse:
        """RevertCommits."""
        request = pb.RevertCommitsRequest.FromString(data)
        write_request = translate.write_request(request.request_id, fingerprint(request))
        origin, on_commit = translate.origin(request, subject_of(context)), listener_of(context)

        def work(live: LiveModel, deadline: float | None) -> pb.RevertCommitsResponse:
            answer = live.revert(
                request.to_revision,
                request.variables,
                conditions=translate.conditions(request),
                request=write_request,
                origin=origin,
                on_commit=on_commit,
                deadline=deadline,
            )
            return pb.RevertCommitsResponse(header=translate.header(answer.header))

        return await self._on_model(request.model, context, work)

    async def renew_lease(self, data: bytes, context: Context) -> pb.RenewLeaseResponse:
        """RenewLease."""
        request = pb.RenewLeaseRequest.FromString(data)
        # Here and now: a lease must not end because the model's workers are busy.
        with self._serving.use(request.model) as served:
            live = served.live
            seconds = live.leases.renew(request.lease, request.epoch)
            return pb.RenewLeaseResponse(header=translate.header(live.header), seconds=seconds)

    async def revoke_lease(self, data: bytes, context: Context) -> pb.RevokeLeaseResponse:
        """RevokeLease."""
        request = pb.RevokeLeaseRequest.FromString(data)
        origin, on_commit = Origin(subject_of(context)), listener_of(context)

        def work(live: LiveModel, deadline: float | None) -> pb.RevokeLeaseResponse:
            answer = live.leases.revoke(
                request.lease,
                request.epoch,
                keep=request.keep,
                origin=origin,
                on_commit=on_commit,
                deadline=deadline,
            )
            return pb.RevokeLeaseResponse(header=translate.header(answer.header))

        return await self._on_model(request.model, context, work)

    async def _on_model(
        self, name: str, context: Context, work: Callable[[LiveModel, float | None], T]
    ) -> T:
        with self._serving.use(name) as served:
            return await served.run(work, deadline_of(context))


def _shutting_down() -> RequestError:
    return RequestError(Reason.SHUTTING_DOWN, "the service is shutting down; watch again elsewhere")


def _check_patterns(patterns: Sequence[str]) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise translate.malformed(f"patterns: expected at most {MAX_PATTERNS}")
    longest = max(map(len, patterns), default=0)
    if longest > MAX_PATTERN:
        raise translate.malformed(
            f"patterns: expected at most {MAX_PATTERN} characters in each, found {longest}"
        )
