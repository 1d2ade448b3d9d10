"""One description for each RPC: how its request is built, its answer read, when it is repeated.

The drivers run them; the handles and the client's flat methods put them together. Values come
prepared (contract dtype, C order), and parts resolved.
"""

from typing import TYPE_CHECKING

from varserve._late import attributes

if TYPE_CHECKING:
    from .commits import (
        WatchMessage as WatchMessage,
        event as event,
        list_commits as list_commits,
        watch_request as watch_request,
    )
    from .inspections import (
        Wanted as Wanted,
        inspect_function as inspect_function,
        list_tensors as list_tensors,
        summary_options as summary_options,
    )
    from .methods import Scope as Scope
    from .models import (
        get_model as get_model,
        list_models as list_models,
        service_version as service_version,
        wait_ready as wait_ready,
    )
    from .reads import (
        Read as Read,
        SummaryOptions as SummaryOptions,
        cast_dtype as cast_dtype,
        read_variable as read_variable,
        read_variables as read_variables,
        summarize_variables as summarize_variables,
    )
    from .runs import (
        run_function as run_function,
        stream_run_function as stream_run_function,
    )
    from .writes import (
        assign_variable as assign_variable,
        assign_variables as assign_variables,
        renew_lease as renew_lease,
        revert_commits as revert_commits,
        revoke_lease as revoke_lease,
    )
else:
    __getattr__ = attributes(
        __name__,
        {
            ".commits": "WatchMessage event list_commits watch_request",
            ".inspections": "Wanted inspect_function list_tensors summary_options",
            ".methods": "Scope",
            ".models": "get_model list_models service_version wait_ready",
            ".reads": (
                "Read SummaryOptions cast_dtype read_variable read_variables summarize_variables"
            ),
            ".runs": "run_function stream_run_function",
            ".writes": ("assign_variable assign_variables renew_lease revert_commits revoke_lease"),
        },
    )
