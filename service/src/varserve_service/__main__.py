"""The command `varserve-service`, from its first moment on."""

from __future__ import annotations

import sys

from .process_start import end_on_signals, open_standard_streams

_ENDED_BY_SIGTERM = 143


def main() -> None:
    """Run the command line."""
    open_standard_streams()
    # A service that is stopped has done what it was asked for; a health check has not.
    end_on_signals(0 if "serve" in sys.argv[1:2] else _ENDED_BY_SIGTERM)
    from .command_line import main as run

    run()


if __name__ == "__main__":
    main()
