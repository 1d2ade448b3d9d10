"""Names are names: nothing that a caller or a link says leads outside the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rpc.traversing import names
from varserve_service.repository import Repository, RepositoryError, find_models

ROOT = Path(__file__).resolve().parents[2]


def test_no_name_in_a_request_opens_a_file(tmp_path: Path) -> None:
    """Paths as names of models, variables and functions are not found, and no file is touched."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    result = subprocess.run(
        [sys.executable, "-m", "tests.rpc.traversing", secret],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["hook_works"]
    assert found["opened"] == []
    assert found["codes"] == {"NOT_FOUND": found["sent"]}
    assert found["codes"]["NOT_FOUND"] >= 100
    assert "secret" not in result.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one good model, beside a model that is not in it."""
    for folder in ("repository/good/1", "repository/good/2", "outside/model/7", "repository-2/m/1"):
        saved_model(tmp_path / folder)
    return tmp_path / "repository"


def saved_model(folder: Path) -> None:
    """Files of the names that a SavedModel has."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "variables" / "variables.index").write_bytes(b"")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"")


def served(repository: Path) -> list[tuple[str, int]]:
    return [(source.name, source.version) for source in find_models({}, repository)]


def test_the_highest_version_of_each_model_is_served(repository: Path) -> None:
    """Versions are compared as numbers, and what is not a version is left alone."""
    saved_model(repository / "good" / "10")
    (repository / "good" / "notes").mkdir()
    (repository / "good" / "99").write_text("not a folder")
    saved_model(repository / "other" / "007")
    assert served(repository) == [("good", 10), ("other", 7)]


@pytest.mark.parametrize(
    "missing",
    ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"],
)
def test_a_version_that_is_still_being_copied_is_not_there_yet(
    repository: Path, missing: str
) -> None:
    """The highest version that has all its files is served, and one without them is not found."""
    saved_model(repository / "good" / "10")
    (repository / "good" / "10" / missing).unlink()
    assert served(repository) == [("good", 2)]
    found = Repository({}, repository)
    assert [source.version for source in found.loadable()] == [1, 2]
    assert found.newest()["good"].version == 2
    with pytest.raises(RepositoryError, match="no complete version 10"):
        found.find("good", 10)
    marked = Repository({}, repository, "DONE")
    assert marked.newest() == {}
    (repository / "good" / "1" / "DONE").touch()
    assert marked.newest()["good"].version == marked.find("good").version == 1


@pytest.mark.parametrize("name", names(Path("/etc/passwd")))
def test_no_name_leads_out_of_the_repository(repository: Path, name: str) -> None:
    """Names that look like paths are no models, whatever stands where they seem to lead."""
    with pytest.raises(RepositoryError):
        Repository({}, repository).find(name)


def test_a_link_that_leads_out_is_passed_over_when_it_is_not_asked_for(repository: Path) -> None:
    """Of what can be loaded, versions and models that lead outside are no part."""
    (repository / "bad").symlink_to("../outside/model")
    (repository / "good" / "9").symlink_to("../../outside/model/7")
    found = Repository({}, repository)
    assert [(source.name, source.version) for source in found.loadable()] == [
        ("good", 1),
        ("good", 2),
    ]
    for name, version in (("bad", 7), ("bad", None), ("good", 9)):
        with pytest.raises(RepositoryError):
            found.find(name, version)


def test_links_inside_the_repository_are_followed(repository: Path) -> None:
    """Links that stay inside are served, as Kubernetes mounts them, and so is a linked root."""
    data = repository / "..data"
    (repository / "good").rename(repository / "..real")
    data.symlink_to("..real")
    (repository / "good").symlink_to("..data")
    (repository / "..real" / "3").symlink_to("2")
    linked_root = repository.parent / "linked"
    linked_root.symlink_to(repository)
    assert served(repository) == served(linked_root) == [("good", 3)]


WAYS_OUT: dict[str, Callable[[Path, Path], None]] = {
    "model": lambda repository, outside: (repository / "bad").symlink_to(outside / "model"),
    "relative": lambda repository, _: (repository / "bad").symlink_to("../outside/model"),
    "sibling": lambda repository, _: (repository / "bad").symlink_to("../repository-2/m"),
    "version": lambda repository, outside: (repository / "good" / "9").symlink_to(
        outside / "model" / "7"
    ),
    "two links": lambda repository, outside: (
        (repository / ".hop").symlink_to(outside),
        (repository / "bad").symlink_to(".hop/model"),
    )[0],
    "variables": lambda repository, outside: replace(
        repository / "good" / "2" / "variables", outside / "model" / "7" / "variables"
    ),
    "file": lambda repository, outside: replace(
        repository / "good" / "2" / "saved_model.pb", outside / "model" / "7" / "saved_model.pb"
    ),
    "file in a folder": lambda repository, outside: replace(
        repository / "good" / "2" / "variables" / "variables.index",
        outside / "model" / "7" / "variables" / "variables.index",
    ),
    "parent": lambda repository, _: (repository / "good" / "2" / "assets").symlink_to("../../.."),
    "dangling": lambda repository, _: (repository / "good" / "2" / "assets").symlink_to("/nope"),
    "circle": lambda repository, _: (repository / "good" / "2" / "assets").symlink_to("assets"),
}


def replace(path: Path, target: Path) -> None:
    """Put a link in the place of a file or folder."""
    path.rename(path.with_name(".was"))
    path.symlink_to(target)


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_link_that_leads_out_is_refused(repository: Path, way: str) -> None:
    """A model, a version or any file below it that leads outside is refused, and named."""
    WAYS_OUT[way](repository, repository.parent / "outside")
    with pytest.raises(RepositoryError, match="leads outside the model repository"):
        served(repository)


def test_links_in_a_circle_end(repository: Path) -> None:
    """A folder that links to itself or to what it is in does not keep the search going."""
    (repository / "good" / "2" / "self").symlink_to(".")
    (repository / "good" / "2" / "up").symlink_to("..")
    assert served(repository) == [("good", 2)]


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "-flag", "a b", "a\nb", "é", "..%2fx", "a" * 129]
)
def test_folders_whose_names_are_no_model_names_are_left_alone(repository: Path, name: str) -> None:
    """Hidden folders and names that need quoting are not models."""
    if name != "..":
        (repository / name / "1").mkdir(parents=True)
    assert served(repository) == [("good", 2)]


@pytest.mark.parametrize("name", ["", "..", "../good", "a/b", ".hidden", "a\0", "é", "a" * 129])
def test_a_name_that_is_no_model_name_is_refused(repository: Path, name: str) -> None:
    """A model's name has letters, digits, dots, dashes and underlines, and begins well."""
    with pytest.raises(RepositoryError, match="model name"):
        find_models({name: repository / "good" / "1"}, None)


@pytest.mark.parametrize(
    "version", ["-1", "1.0", "+1", "1e3", "0x10", "\u0663", "1" * 19, ".1", "1 "]
)
def test_a_folder_that_is_no_version_is_not_served(repository: Path, version: str) -> None:
    """Only plain decimal numbers that fit an int64 are versions."""
    (repository / "good" / version).mkdir()
    assert served(repository) == [("good", 2)]


def test_a_model_without_a_version_is_told(repository: Path) -> None:
    """A folder that looks like a model and has no version is the operator's mistake."""
    (repository / "empty").mkdir()
    with pytest.raises(RepositoryError, match="model 'empty': expected folders named by version"):
        served(repository)
    with pytest.raises(RepositoryError, match="not a folder"):
        served(repository / "nope")
    found = Repository({}, repository)
    assert found.incomplete() == ["empty"]
    assert [source.name for source in found.all(but=found.incomplete())] == ["good"]


def test_a_model_named_twice_is_told(repository: Path) -> None:
    """One name by path and in the repository is refused."""
    with pytest.raises(RepositoryError, match="both"):
        find_models({"good": repository / "good" / "1"}, repository)
