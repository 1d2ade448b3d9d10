"""The settings as options of the rooms that they are for."""

from __future__ import annotations

from varserve_service.descriptors import ConnectionShares
from varserve_service.journal import JournalOptions
from varserve_service.rpc import (
    BatchOptions,
    Limit,
    ServerOptions,
)
from varserve_service.settings import Settings


def batch_options(settings: Settings) -> dict[tuple[str, str], BatchOptions]:
    """The batching that the settings ask for."""
    return {
        (model, function): BatchOptions(**batching.model_dump())
        for model, functions in settings.batching.items()
        for function, batching in functions.items()
    }


def journal_options(settings: Settings) -> JournalOptions:
    """What the settings say about the journal."""
    return JournalOptions(
        history_commits=settings.history_commits,
        check_seconds=settings.state_check,
        history_bytes=settings.history_bytes,
        commit_bytes=settings.state_commit_bytes,
        answer_count=settings.request_ids,
        answer_age=settings.request_id_age,
    )


def server_options(settings: Settings, connections: ConnectionShares) -> ServerOptions:
    """What the settings say about the server."""
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        health_host=settings.network_host,
        health_port=settings.health_port,
        lane_socket="" if settings.lane_socket is None else str(settings.lane_socket.absolute()),
        lane_uids=settings.lane_uids,
        lane_port=settings.lane_port,
        lane_host=settings.network_host,
        admin_host=settings.admin_host,
        admin_port=settings.admin_port or 0,
        reflection=settings.reflection,
        facades=settings.facade,
        facade_message_bytes=settings.facade_message_bytes,
        threads_per_model=settings.threads_per_model,
        max_pending_calls=settings.max_pending_calls,
        body_bytes=settings.max_body_bytes,
        staging_bytes=settings.max_staging_bytes,
        transfer_silence=settings.max_transfer_silence,
        transfer_rate=settings.min_transfer_rate,
        max_streams=settings.max_streams,
        max_connections=connections.calls,
        max_other_connections=connections.others,
        max_lane_connections=connections.lane,
        max_lane_memories=connections.memories,
        connection_idle=settings.max_connection_idle,
        max_connection_age=settings.max_connection_age,
        connection_grace=settings.connection_grace,
        limits={
            verb: Limit(
                calls=limit.calls,
                calls_per_subject=limit.calls_per_subject,
                nbytes=limit.bytes,
                nbytes_per_subject=limit.bytes_per_subject,
            )
            for verb, limit in settings.limits.items()
        },
        batching=batch_options(settings),
        state_lag=settings.state_lag,
        call_log_level=settings.call_log_level,
    )
