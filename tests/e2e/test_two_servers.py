"""Two services behind one target: the death of one fails no call."""

from __future__ import annotations

from collections import Counter

import varserve
from tests.conftest import Serve


def test_calls_go_on_when_a_server_is_killed(serve: Serve) -> None:
    """Both answer in turn; one gets SIGKILL in mid-traffic, and every call after it is answered."""
    with serve("counter") as one, serve("counter") as other:
        with varserve.connect(f"ipv4:{one.address},{other.address}") as client:
            client.wait_ready()

            def epoch() -> str:
                return client.read_variable("counter", "v").header.epoch

            seen: Counter[str] = Counter()
            while len(seen) < 2:  # the second one may not be connected yet
                seen[epoch()] += 1
            both = Counter(epoch() for _ in range(100))
            assert min(both.values()) >= 40, both
            one.process.kill()
            after = [epoch() for _ in range(200)]
            assert len(set(after[10:])) == 1
        assert other.terminate() == 0
