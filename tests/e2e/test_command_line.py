"""The command line and the service, each in a process of its own, on a real SavedModel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.serving import service_process


def test_from_released_to_changed_and_back(tmp_path: Path) -> None:
    """What runs is what was released; a change shows, and is taken back from the SavedModel."""
    # In a process of its own: TensorFlow's devices are not this test's to choose.
    build = "import sys; from pathlib import Path; from tests import saved_models; "
    build += "saved_models.build('keras_2', Path(sys.argv[1]))"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=root, check=True, timeout=300)
    (folder,) = {path.parent for path in tmp_path.rglob("saved_model.pb")}

    with service_process({"k": folder}, tmp_path / "log") as service:

        def run(*arguments: str, code: int = 0) -> Any:
            command = [sys.executable, "-m", "varserve", "-s", service.address, *arguments]
            done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
            assert done.returncode == code, done.stderr
            return json.loads(done.stdout)

        run("wait-ready", "k")
        first = run("diff", "k", str(folder))
        assert first["different"] == []
        assert first["equal"] >= 4
        name = next(
            each["name"] for each in run("ls", "k")["variables"] if each["dtype"] == "float32"
        )
        summary = run("summary", "k", name)["summaries"][name]
        shape = summary["shape"]
        value = run("read", "k", name)["value"]
        kept = tmp_path / "kept.safetensors"
        run("pull", "k", str(kept))
        changed = tmp_path / "changed.json"
        changed.write_text(json.dumps(_plus_one(value)))
        run("assign", "k", name, f"@{changed}", "-m", "by hand")
        different = run("diff", "k", str(folder), code=1)["different"]
        assert [(each["variable"], each["largest"]) for each in different] == [(name, 1)]
        assert run("diff", "k", str(kept), code=1)["different"] == different
        run("push", "k", str(folder), "--dry-run", code=1)
        run("push", "k", str(folder), "-m", "as released")
        assert run("diff", "k", str(folder))["different"] == []
        again = run("summary", "k", name)["summaries"][name]
        assert (again["content_hash"], again["shape"]) == (summary["content_hash"], shape)
        assert [each["message"] for each in run("history", "k")["commits"]] == [
            "as released",
            "by hand",
        ]


def test_from_changed_to_the_next_version(tmp_path: Path) -> None:
    """What was changed is saved as the next version, which takes the place of the one before.

    What was left of an earlier save is gone.
    """
    build = "import sys; from pathlib import Path; from tests import saved_models; "
    build += "saved_models.build('counter', Path(sys.argv[1])).rename(sys.argv[2])"
    root = Path(__file__).parents[2]
    repository = tmp_path / "repository"
    (repository / "counter").mkdir(parents=True)
    first = repository / "counter" / "1"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path), str(first)], cwd=root, check=True, timeout=300
    )
    unfinished = repository / ".saving-0123456789abcdef"
    unfinished.mkdir()
    arguments = (f"--model-repository={repository}", f"--save-dir={repository}", "--admin-port=0")
    with service_process({}, tmp_path / "log", arguments) as service:
        assert not unfinished.exists()
        here = ("-s", service.address, "--admin-server", service.admin_address)

        def run(*arguments: str) -> Any:
            command = [sys.executable, "-m", "varserve", *here, *arguments, "--json"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        run("assign", "counter", "v", "[7, 8, 9]")
        for form in ("saved_model", "checkpoint", "safetensors"):
            folder = "counter/2" if form == "saved_model" else form
            saved = run("admin", "save", "counter", folder, "--format", form)
            assert (saved["revision"], saved["variables"]) == (1, 2)
            assert saved["bytes"] > 0
        assert run("diff", "counter", str(repository / "counter" / "2"))["different"] == []
        index = str(repository / "checkpoint" / "variables.index")
        assert run("diff", "counter", index)["different"] == []
        kept = str(repository / "safetensors" / "model.safetensors")
        assert run("diff", "counter", kept)["different"] == []
        assert run("admin", "load", "counter")["version"] == 2
        assert run("read", "counter", "v")["value"] == [7, 8, 9]
        run("admin", "set-label", "counter", "before", "1")
        assert run("read", "counter@before", "v")["value"] == [1, 2, 3]
        states = {
            each["version"]: (each["state"], each["labels"])
            for each in run("admin", "versions", "counter")["versions"]
        }
        assert states == {1: ("ready", ["before"]), 2: ("ready", ["stable"])}
        assert len(run("admin", "unload", "counter")["unloaded"]) == 2
        assert run("models")["models"] == []


def _plus_one(value: Any) -> Any:
    return [_plus_one(each) for each in value] if isinstance(value, list) else value + 1
