"""Models from folders and object stores into a repository: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import document, invoke
from tests.lifecycle.administered import administered, saved_model
from tests.waiting import join, until
from varserve.fetching import FetchError, open_source, place, target_of
from varserve.fetching.sources import File, FolderSource
from varserve_service.lifecycle.allowed import AllowedModels
from varserve_service.repository import Repository

FILES = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"\0" * 1000,
    "assets/words.txt": b"a\nb\n",
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that looks like a SavedModel."""
    return written(tmp_path / "saved")


def written(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_the_next_version(saved: Path, repository: Path) -> None:
    """Versions are counted on; the service finds them; nothing else is left."""
    for version in (1, 2):
        result = document(invoke("fetch", str(saved), f"{repository}/m", "--json"))
        assert result["version"] == version
        assert result["path"] == str(repository / "m" / str(version))
    assert listed(repository) == sorted(f"m/{v}/{name}" for v in (1, 2) for name in FILES)
    (source,) = Repository({}, repository).all()
    assert (source.name, source.version) == ("m", 2)


def test_what_is_printed_is_a_list_of_allowed_models(
    saved: Path, repository: Path, tmp_path: Path
) -> None:
    """The lines after the first are those that `--allowed-models` takes for this version."""
    result = invoke("fetch", str(saved), f"{repository}/m/7")
    allowed = tmp_path / "allowed"
    allowed.write_text("".join(result.stdout.splitlines(keepends=True)[1:]))
    (source,) = Repository({}, repository).all()
    AllowedModels(allowed).check(source)


def test_a_manifest_decides_what_is_fetched(saved: Path, repository: Path, tmp_path: Path) -> None:
    """Every file of the manifest, with its digest, and no other."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    manifest = tmp_path / "manifest"
    for wrong in ({"saved_model.pb": "0" * 64}, {"more.txt": "0" * 64}):
        lines = [f"{digest}  {name}\n" for name, digest in (digests | wrong).items()]
        manifest.write_text("".join(lines))
        command = ("fetch", str(saved), f"{repository}/m", "--sha256", str(manifest))
        assert next(iter(wrong)) in invoke(*command, code=2).stderr
        assert listed(repository) == []
    manifest.write_text("".join(f"{digest}  ./{name}\n" for name, digest in digests.items()))
    invoke("fetch", str(saved), f"{repository}/m", "--sha256", str(manifest))
    assert len(listed(repository)) == len(FILES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "saved_model.pb").unlink(), "expected a folder with saved_model"),
        (lambda folder: (folder / "variables/variables.index").rename(folder / "x"), ""),
        (
            lambda folder: (folder / "variables/variables.data-00000-of-00001").unlink(),
            "not whole",
        ),
        (
            lambda folder: (folder / "variables/variables.data-00000-of-00001").rename(
                folder / "variables/variables.data-00000-of-00002"
            ),
            "not whole",
        ),
        (lambda folder: folder.rename(folder.parent / "elsewhere"), "is not a folder"),
    ],
)
def test_what_is_not_whole_is_refused(
    saved: Path, repository: Path, change: Any, said: str
) -> None:
    """A folder that is no whole SavedModel leaves nothing behind, and the refusal says what."""
    change(saved)
    code = 2 if said else 0
    result = invoke("fetch", str(saved), f"{repository}/m", code=code)
    assert said in result.stderr
    if code:
        assert listed(repository) == []


def test_the_folder_above_is_told(saved: Path, repository: Path) -> None:
    """Who names the folder above a SavedModel is told which one it is."""
    result = invoke("fetch", str(saved.parent), f"{repository}/m", code=2)
    assert "is it saved?" in result.stderr


def test_a_version_is_never_changed(saved: Path, repository: Path) -> None:
    """One that exists is refused, and stays as it is."""
    invoke("fetch", str(saved), f"{repository}/m/3")
    (repository / "m" / "3" / "saved_model.pb").write_bytes(b"other")
    assert "exists" in invoke("fetch", str(saved), f"{repository}/m/3", code=2).stderr
    assert (repository / "m" / "3" / "saved_model.pb").read_bytes() == b"other"


@pytest.mark.parametrize("target", ["m", "../m/../..", "r/.hidden", "r/a b"])
def test_a_target_is_a_name_in_a_repository(
    target: str, saved: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that the service would not serve is refused; a bare name is one in this folder."""
    monkeypatch.chdir(repository)
    if target == "m":
        assert target_of(target) == (Path(), "m", None)
    else:
        assert invoke("fetch", str(saved), target, code=2).stderr


class Lying:
    """A source whose files are not what it says."""

    def __init__(self, files: dict[str, bytes], **sizes: int) -> None:
        self._files, self._sizes = files, sizes

    def files(self) -> list[File]:
        return [
            File(name, self._sizes.get("size", len(data))) for name, data in self._files.items()
        ]

    def read(self, path: str) -> Iterator[bytes]:
        yield self._files[path]


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../../evil", "a\\..\\evil"])
def test_no_file_leaves_the_folder(name: str, repository: Path) -> None:
    """A name that leads out of the model's folder is refused before anything is written."""
    with pytest.raises(FetchError, match="leads out"):
        place(Lying({"saved_model.pb": b"", name: b"x"}), repository, "m")
    assert listed(repository.parent) == []


def test_a_file_that_ends_early_is_refused(repository: Path) -> None:
    """Bytes that are missing are noticed, and nothing is left."""
    with pytest.raises(FetchError, match="expected 9 bytes, found 5"):
        place(Lying({"saved_model.pb": b"graph"}, size=9), repository, "m")
    assert listed(repository) == []


def test_two_at_once_take_two_versions(saved: Path, repository: Path) -> None:
    """Fetches that run side by side do not take each other's number."""
    start = threading.Barrier(4)
    taken: list[int] = []

    def fetch() -> None:
        start.wait(30)
        taken.append(place(FolderSource(saved), repository, "m").version)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    join(threads)
    assert sorted(taken) == [1, 2, 3, 4]


def test_unknown_places_are_named() -> None:
    """A scheme that is not known is refused with those that are."""
    with pytest.raises(FetchError, match="s3:"), open_source("ftp://host/model"):
        pass


def test_the_newest_version_of_a_folder_is_followed(tmp_path: Path) -> None:
    """It is fetched and loaded with its number, and each newer one; what is not whole never is."""
    source = tmp_path / "source"
    saved_model(source / "7")
    saved_model(source / "10" / "inner")
    (source / "other").mkdir()
    with administered(tmp_path) as found:
        target = ("--admin-server", found.admin_address, "follow", str(source))
        target += (f"{found.repository}/m", "--every", "1", "--count", "2")
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(invoke(*target)))
        thread.start()
        until(lambda: found.states() == {("m", 7): "ready"}, seconds=60)
        assert found.version("m") == 7
        (source / "9").mkdir()
        (source / "9" / "saved_model.pb").write_bytes(b"")
        (source / "9" / "variables").mkdir()
        (source / "9" / "variables" / "variables.index").write_bytes(b"")
        saved_model(source / "12")
        join([thread])
        assert found.states() == {("m", 12): "ready"}
    assert results[0].stdout.splitlines() == [
        f"{source} is version {number}: loaded as m" for number in (7, 12)
    ]
    assert sorted(path.name for path in (tmp_path / "repository" / "m").iterdir()) == ["12", "7"]


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is installed")
def test_what_is_missing_is_named() -> None:
    """Without MLflow `fetch` and `follow` end at once, and say what to install."""
    for command in (("fetch", "models:/m/1", "r/m"), ("follow", "models:/m@a", "r/m")):
        assert 'pip install "varserve[mlflow]"' in invoke(*command, code=2).stderr


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A real HTTP server with the API of S3, which Google's XML API for objects is as well."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def environment_of(scheme: str, endpoint: str) -> dict[str, str]:
    """What finds the server as the store of a cloud."""
    if scheme == "s3":
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
        }
    account = {"client_email": "", "private_key": "", "private_key_id": ""}
    where = {"gcs_base_url": endpoint, "disable_oauth": True}
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account | where)}


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_model_comes_from_an_object_store(
    scheme: str, endpoint: str, tmp_path: Path, repository: Path
) -> None:
    """All objects below a prefix, large ones in parts; a bucket that is not there is said."""
    import boto3

    large = os.urandom(20 << 20)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    bucket = f"models{scheme}"
    client.create_bucket(Bucket=bucket)

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=data, ACL="public-read")

    for name, data in (FILES | {"variables/variables.data-00000-of-00001": large}).items():
        put(f"m/1/{name}", data)
    for folder in ("m/1/", "m/1/variables/"):  # as some tools mark folders
        put(folder, b"")
    put("m/10/other", b"x")

    def fetch(uri: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "varserve", "fetch", uri, f"{repository}/m", "--json"],
            env=os.environ | environment_of(scheme, endpoint),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    result = fetch(f"{scheme}://{bucket}/m/1")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert sorted(found["sha256"]) == sorted(FILES)
    assert found["sha256"]["variables/variables.data-00000-of-00001"] == (
        hashlib.sha256(large).hexdigest()
    )
    placed = repository / "m" / "1" / "variables" / "variables.data-00000-of-00001"
    assert placed.read_bytes() == large
    for uri in (f"{scheme}://nowhere/m", f"{scheme}://{bucket}/none"):
        result = fetch(uri)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
