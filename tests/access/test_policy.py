"""The policy file is taken whole or refused whole, and a broken change leaves what was there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from varserve_service.access import policy as policy_module
from varserve_service.access.policy import Kind, Verb
from varserve_service.access.policy_file import PolicyError, read_policy
from varserve_service.reloading import ReloadedFiles

ROOT = Path(__file__).resolve().parents[2]
GOOD = b"rules: [{subjects: [a], verbs: [read], models: [m], variables: [v]}]"


def rule_of(subject: str) -> bytes:
    """A file with one rule of a subject."""
    rule = f"subjects: ['{subject}'], verbs: [read], models: [m], variables: [v]"
    return f"rules: [{{{rule}}}]".encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "the file"),
        (b"rules", "the file"),
        (b"rule: []", "rules"),
        (b"rules: {}", "rules"),
        (GOOD + b"\nmore: 1", "more"),
        (b"rules: [{verbs: [read], models: [m], variables: [v]}]", "rules.0.subjects"),
        (b"rules: [{subjects: [], verbs: [read], models: [m], variables: [v]}]", "rules.0.subj"),
        (b"rules: [{subjects: a, verbs: [read], models: [m], variables: [v]}]", "rules.0.subj"),
        (b"rules: [{subjects: [a], verbs: [reed], models: [m], variables: [v]}]", "reed"),
        (b"rules: [{subjects: [a], verbs: [], models: [m], variables: [v]}]", "rules.0.verbs"),
        (b"rules: [{subjects: [a], verbs: [read], models: [], variables: [v]}]", "rules.0.mod"),
        (b"rules: [{subjects: [a], verbs: [read], models: [m]}]", "`variables` beside read"),
        (b"rules: [{subjects: [a], verbs: [run], models: [m]}]", "`functions` beside run"),
        (b"rules: [{subjects: [a], verbs: [run], models: [m], variables: [v]}]", "variables"),
        (b"rules: [{subjects: [a], verbs: [read], models: [m], variables: ['']}]", "variables.0"),
        (b"rules: [{subjects: [1], verbs: [read], models: [m], variables: [v]}]", "subjects.0"),
        (rule_of("a" * 1025), "subjects.0"),
        (b"rules: [{subjects: [a], verbs: [admin], models: [m], functions: [f]}]", "functions"),
        (GOOD + b"\nrules: []", "twice"),
        (b"rules: [{subjects: [a], subjects: [b], verbs: [read]}]", "twice"),
        (b"rules: [", "YAML"),
        (b"\xff\xfe\xfa", "YAML"),
        (b"rules: !!python/object/apply:os.system [id]", "YAML"),
        (b"[" * 5000, "YAML"),
    ],
)
def test_a_file_that_is_wrong(text: bytes, why: str) -> None:
    """One mistake refuses the whole file, with a message that says where."""
    with pytest.raises(PolicyError, match=why.replace(".", r"\.")):
        read_policy(text)


def test_a_pattern_has_as_many_characters_as_it_may() -> None:
    """The longest is a rule like any other."""
    policy = read_policy(rule_of("a" * 1024))
    assert policy.allows("a" * 1024, Verb.READ, "m", Kind.VARIABLE, "v")


def test_patterns() -> None:
    """A pattern is of the whole name: `*` stands for anything, `/` and line ends too."""
    policy = read_policy(
        b"""rules: [{subjects: ["team/*", "b?b"], verbs: [read], models: ["m[12]"],
                     variables: ["a/*", "*/bias", "x.y"]}]"""
    )

    def may(subject: str, model: str, name: str) -> bool:
        found = policy.allows(subject, Verb.READ, model, Kind.VARIABLE, name)
        assert found == policy.decide(subject, Verb.READ, model, Kind.VARIABLE, name)
        return found

    assert may("team/x/y", "m1", "a/b/c")
    assert may("bob", "m2", "layers/0/bias")
    assert may("team/", "m1", "a/b\nc")
    for subject, model, name in [
        ("team", "m1", "a/b"),
        ("Bob", "m1", "a/b"),
        ("xbob", "m1", "a/b"),
        ("bob\n", "m1", "a/b"),
        ("", "m1", "a/b"),
        ("bob", "m3", "a/b"),
        ("bob", "m12", "a/b"),
        ("bob", "m1", "a"),
        ("bob", "m1", "xay"),
        ("bob", "m1", "x.y\n"),
        ("bob", "m1", ""),
    ]:
        assert not may(subject, model, name), (subject, model, name)
    assert not policy.allows("bob", Verb.ASSIGN, "m1", Kind.VARIABLE, "a/b")
    assert not policy.allows("bob", Verb.LIST, "m1", Kind.MODEL)
    assert not policy.allows("bob", Verb.READ, "m1", Kind.MODEL)


def test_no_rules_allow_nothing() -> None:
    """An empty list of rules is a policy, and allows nothing to nobody."""
    policy = read_policy(b"rules: []")
    assert not any(policy.allows("a", verb, "m", kind) for verb in Verb for kind in Kind)


def test_a_change_is_taken_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new policy holds at once; a broken or missing one is told once, and the old one stays."""
    path = tmp_path / "policy.yaml"
    path.write_bytes(GOOD)
    watched = ReloadedFiles("policy", [path], lambda found: read_policy(found[0]))
    first = watched.current
    assert not watched.reload()
    with caplog.at_level(logging.ERROR):
        for broken in (b"rules: [", GOOD.replace(b"read", b"reed")):
            path.write_bytes(broken)
            assert not watched.reload()
            assert not watched.reload()
            assert watched.current is first
        path.unlink()
        assert not watched.reload()
        assert watched.current is first
    assert len([each for each in caplog.records if "not reloaded" in each.getMessage()]) == 3
    path.write_bytes(b"rules: []")
    assert watched.reload()
    assert not watched.current.allows("a", Verb.READ, "m", Kind.VARIABLE, "v")


def test_a_link_that_is_swapped(tmp_path: Path) -> None:
    """Kubernetes swaps a link to a folder: what it leads to now is read."""
    for name, text in (("one", GOOD), ("two", b"rules: []")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_bytes(text)
    link = tmp_path / "data"
    link.symlink_to("one")
    watched = ReloadedFiles("policy", [link / "policy.yaml"], lambda found: read_policy(found[0]))
    fresh = tmp_path / "fresh"
    fresh.symlink_to("two")
    fresh.rename(link)
    assert watched.reload()
    assert not watched.current.knows("a", "m")


def test_a_wrong_policy_at_the_start(tmp_path: Path) -> None:
    """It is refused with the file's name."""
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"rules: {}")
    with pytest.raises(ValueError, match=r"policy in .*policy\.yaml: rules"):
        ReloadedFiles("policy", [path], lambda found: read_policy(found[0]))


def test_the_example_of_the_documentation() -> None:
    """The policy in docs/access.md is one, and allows what the text beside it says."""
    text = (ROOT / "docs" / "access.md").read_text()
    example = text.partition("```yaml\nrules:")[2].partition("```")[0]
    policy = read_policy(b"rules:" + example.encode())
    trainer, service = "spiffe://example.org/ns/ml/sa/trainer", "system:serviceaccount:web:frontend"

    def may(subject: str, verb: Verb, name: str, kind: Kind = Kind.VARIABLE) -> bool:
        return policy.allows(subject, verb, "basic_pitch", kind, name)

    assert may(trainer, Verb.ASSIGN, "conv2d_5/bias")
    assert may(service, Verb.RUN, "serving_default", Kind.FUNCTION)
    assert not may(service, Verb.READ, "conv2d_5/bias")
    assert may("ann@example.org", Verb.SUMMARIZE, "conv2d_5/bias")
    assert not may("ann@example.org", Verb.READ, "conv2d_1/kernel")
    assert policy.allows("root", Verb.ADMIN, "basic_pitch", Kind.MODEL)
    assert not policy.allows(trainer, Verb.ADMIN, "basic_pitch", Kind.MODEL)


def test_remembered_decisions_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many callers and names come, no more than so many are kept; all stay right."""
    monkeypatch.setattr(policy_module, "_MAX_DECISIONS", 4)
    policy = read_policy(GOOD)
    for number in range(20):
        subject = "a" if number % 2 else f"s{number}"
        assert policy.allows(subject, Verb.READ, "m", Kind.VARIABLE, "v") is (subject == "a")
        assert policy.knows(subject, "m") is (subject == "a")
        assert len(policy._decided) <= 4
        assert len(policy._known) <= 4
    assert policy._decided
    assert policy._known


def test_names_that_a_caller_made_up_are_not_remembered() -> None:
    """Only what exists takes room."""
    policy = read_policy(GOOD)
    for number in range(20):
        policy.decide("a", Verb.READ, "m", Kind.VARIABLE, f"made-up-{number}")
        policy.would_know("a", f"made-up-{number}")
    assert (len(policy._decided), len(policy._known)) == (0, 0)


def test_what_a_subject_has_on_anything() -> None:
    """By any rule that names it, whether there is such a thing or not."""
    policy = read_policy(
        b"rules: [{subjects: ['a*'], verbs: [read, list], models: [m], variables: [v]},"
        b"{subjects: [b], verbs: [admin], models: ['*']}]"
    )
    verbs = {name: {v for v in Verb if policy.grants(name, v)} for name in ("a1", "b", "c")}
    assert verbs == {"a1": {Verb.READ, Verb.LIST}, "b": {Verb.ADMIN}, "c": set()}
