"""What calls take and give: specs, readings, commits, regions. Knows no calls."""

from typing import TYPE_CHECKING

from varserve._late import attributes

if TYPE_CHECKING:
    from .arguments import prepare_run as prepare_run
    from .options import (
        ReadOptions as ReadOptions,
        WriteOptions as WriteOptions,
        new_request_id as new_request_id,
    )
    from .regions import (
        regions_of as regions_of,
        resolve as resolve,
    )
    from .seen import Seen as Seen
    from .writes import (
        Write as Write,
        prepare as prepare,
        writes_of as writes_of,
    )
else:
    __getattr__ = attributes(
        __name__,
        {
            ".arguments": "prepare_run",
            ".options": "ReadOptions WriteOptions new_request_id",
            ".regions": "regions_of resolve",
            ".seen": "Seen",
            ".writes": "Write prepare writes_of",
        },
    )
