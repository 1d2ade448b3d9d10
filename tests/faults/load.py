"""Load on a service, from a process of its own: `load.py ADDRESS`, until standard input closes.

One client uploads 256 MiB again and again, three run a function that takes a while, and 64 read a
small variable. Prints what it did as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np

import varserve

UPLOAD_MIB = 256
SPIN_STEPS = 20_000
READERS = 64


def main(address: str) -> None:
    stop = threading.Event()
    done: Counter[str] = Counter()

    def repeat(kind: str, act: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                act()
                done[kind] += 1
            except varserve.VarserveError as error:
                done[f"{kind}: {type(error).__name__}"] += 1

    clients = [varserve.connect(address, timeout=300) for _ in range(READERS)]
    big = clients[0].model("large_64").variables["big"]
    spin = clients[1].model("slow").functions["spin"]
    value = np.ones(big.shape, np.float32)
    upload = [("upload", lambda: [big.assign(value) for _ in range(UPLOAD_MIB // 64)])]
    runs = [("run", lambda: spin(steps=SPIN_STEPS))] * 3
    reads = [("read", client.model("slow").variables["count"].numpy) for client in clients]
    threads = [threading.Thread(target=repeat, args=each) for each in (*upload, *runs, *reads)]
    for thread in threads:
        thread.start()
    print("running", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(60)
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
