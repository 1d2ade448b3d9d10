"""WatchVariables and ListCommits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from varserve.v1 import history_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc.authorization.watch_permit import WatchPermit
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.history_messages import WatchFilter, page
from varserve_service.rpc.serving.watching import Watch

from .backend import Backend
from .consistency import wait_until_recent

MAX_PATTERNS = 100
# Characters of one. To compile one takes the square of them where brackets are open.
MAX_PATTERN = 512
DEFAULT_COMMITS, MAX_COMMITS = 100, 1000


async def watch_variables(
    backend: Backend, request: pb.WatchVariablesRequest, call: RpcCall
) -> None:
    """WatchVariables."""
    _check_patterns(request.patterns)
    task = asyncio.current_task()
    assert task is not None
    backend.watches.add(task)
    try:
        await wait_until_recent(backend, request, call)
        with backend.serving.use(call, request.model, watch=True) as served:
            live, workers = served.live, served.watch_workers
            hub = served.hub(backend.senders, backend.max_message_bytes)
            permit = WatchPermit(call.permissions, live, request)
            paths = await workers.run(permit.select, call)
            wanted = WatchFilter(hub.same(paths), request.values, request.previous_values)
            watch = Watch(
                live, hub, call, wanted, backend.bookmark_seconds, permit, backend.transfers
            )
            after = translate.optional(request, "after_revision")
            await watch.run(after, request.epoch, workers)
    finally:
        backend.watches.discard(task)


async def list_commits(
    backend: Backend, request: pb.ListCommitsRequest, call: RpcCall
) -> pb.ListCommitsResponse:
    """ListCommits."""
    _check_patterns(request.patterns)
    limit = request.max_commits or DEFAULT_COMMITS
    if not 0 < limit <= MAX_COMMITS:
        raise translate.malformed(f"max_commits: expected 0 to {MAX_COMMITS}, found {limit}")
    permissions = call.permissions

    def work(live: LiveModel, deadline: float | None) -> pb.ListCommitsResponse:
        timeline, names = live.timeline, live.timeline.display_names
        with backend.computing.turn():
            among = None if permissions is None else permissions.variables(Verb.WATCH, live)
            paths = timeline.select(request.patterns, among)
        commits = timeline.commits(
            limit,
            before=translate.optional(request, "before_revision"),
            paths=paths,
            deadline=deadline,
        )
        if among is not None:
            names = {path: name for path, name in names.items() if path in among}
        with backend.computing.turn():
            return page(commits, names, backend.max_message_bytes)

    await wait_until_recent(backend, request, call)
    return await backend.run_on_model(call, request.model, work)


def _check_patterns(patterns: Sequence[str]) -> None:
    longest = max(map(len, patterns), default=0)
    if longest > MAX_PATTERN:
        raise translate.malformed(
            f"patterns: expected at most {MAX_PATTERN} characters in each, found {longest}"
        )
