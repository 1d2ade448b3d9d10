"""The main job, on a real model: read, change and run what another process is serving.

Starts the service over basic-pitch (audio to notes) and, from a client without TensorFlow, shows a
chord's notes, changes a kernel live, shows that the notes change, and puts it back to the last bit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import varserve

# The end of a connection is no news here.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

RATE = 22_050  # Hz, mono
SAMPLES = 43_844  # what the model hears at once: two seconds
CHORD = (60, 64, 67)  # MIDI: C4, E4, G4
LOWEST_KEY = 21  # MIDI number of the model's first of 88 keys
KERNEL = "conv2d_1/kernel"
BINS_PER_SEMITONE = 3
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SHADES = " .:*#"
HEARD = 0.5  # mean activation from which a key counts as heard

Array = np.ndarray[Any, Any]


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show that something is going on, and how long it took."""
    done = threading.Event()
    started = time.monotonic()

    def show() -> None:
        while not done.wait(1):
            print(".", end="", flush=True)

    print(f"{text} ", end="", flush=True)
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    print(f" {time.monotonic() - started:.1f} s")


@contextmanager
def service(model: Path) -> Iterator[str]:
    """The service in a process of its own, on a free port; gives HOST:PORT."""
    command = [sys.executable, "-m", "varserve_service", "serve", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--model", f"basic_pitch={model}"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            with progress("starting the service"):
                ready = process.stdout.readline() if process.stdout else ""
            if not ready:
                log.seek(0)
                sys.exit(f"the service did not start:\n{log.read().decode()}")
            yield ready.split()[-1]
        finally:
            process.terminate()
            process.wait()


def chord() -> Array:
    """Two seconds of a struck C major chord: float32 [1, 43844, 1]."""
    t = np.arange(SAMPLES) / RATE
    sound = np.zeros(SAMPLES)
    for key in CHORD:
        pitch = 440 * 2 ** ((key - 69) / 12)
        sound += sum(np.sin(2 * np.pi * pitch * h * t) / h for h in range(1, 5))
    sound *= 0.15 * np.minimum(1, t / 0.02) * np.exp(-0.7 * t)
    return sound.astype(np.float32)[None, :, None]


def key_name(midi: int) -> str:
    return f"{NAMES[midi % 12]}{midi // 12 - 1}"


def heard(notes: Array) -> list[int]:
    """MIDI numbers of the keys that sound through most of the two seconds."""
    return [int(key) + LOWEST_KEY for key in np.flatnonzero(notes[20:140].mean(0) >= HEARD)]


def piano_roll(notes: Array) -> None:
    """Draw activations, float32 [172, 88], one row for each key around what is heard."""
    keys = sorted({*heard(notes), *CHORD}, reverse=True)
    for key in range(keys[0] + 1, keys[-1] - 2, -1):
        row = notes[: 171 // 3 * 3, key - LOWEST_KEY].reshape(-1, 3).mean(1)
        shades = (np.clip(row, 0, 0.999) * len(SHADES)).astype(int)
        print(f"  {key_name(key):>4} |{''.join(SHADES[shade] for shade in shades)}|")
    print(f"  heard: {' '.join(map(key_name, heard(notes))) or '(nothing)'}")


def show(model: varserve.Model[Any]) -> None:
    trainable = [v for v in model.variables.values() if v.trainable]
    print(f"\n{model.name}: {len(model.variables)} variables, of them {len(trainable)} trainable:")
    for variable in trainable[:6]:
        print(f"  {variable.name:<28} {variable.dtype.name:<8} {list(variable.shape)}")
    print(f"  ... and {len(trainable) - 6} more")
    print(f"{len(model.functions)} functions; the signature that we call:")
    print(f"  {model.functions['serving_default']!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="basic-pitch's SavedModel")
    with service(parser.parse_args().model) as address, varserve.connect(address) as client:
        tensorflow = "with" if "tensorflow" in sys.modules else "without"
        print(f"connected to {address}, {tensorflow} TensorFlow in this process")
        model = client.model("basic_pitch")
        show(model)

        listen = model.functions["serving_default"]
        audio = chord()
        print("\n1. What the model hears in a C major chord (C4 E4 G4):")
        with progress("  running serving_default"):
            before = listen(input_2=audio)
        piano_roll(before["note"][0])

        kernel = model.variables[KERNEL]
        original = kernel.numpy()
        print(f"\n2. Read {KERNEL}: {original.dtype} {list(original.shape)}, ", end="")
        print(f"mean {original.mean():+.4f}, revision {kernel.revision}")

        commit = kernel.assign(np.roll(original, BINS_PER_SEMITONE, axis=1))
        print(f"\n3. Changed it live, shifted by a semitone: commit at revision {commit.revision}")
        during = listen(input_2=audio)
        piano_roll(during["note"][0])
        print(f"  computed at revision {during.revision}")

        commit = kernel.assign(original)
        after = listen(input_2=audio)
        print(f"\n4. Put it back: commit at revision {commit.revision}")
        piano_roll(after["note"][0])
        same = all(before[name].tobytes() == after[name].tobytes() for name in before)
        print(f"  computed at revision {after.revision}; ", end="")
        print("the same as at first, to the last bit" if same else "NOT the same as at first")
    changed = heard(during["note"][0]) != heard(before["note"][0])
    if not (same and changed and heard(before["note"][0]) == list(CHORD)):
        sys.exit("the demo did not show what it should")


if __name__ == "__main__":
    main()
