"""Revisions that move, move back and are held against conditions; the states of a proposal."""

from __future__ import annotations

import pytest

from tests.core.test_live_model import refusal
from varserve_service.core.commit.proposal import NEXT, Proposal, State, Terms
from varserve_service.core.commit.revisions import Revisions
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import VariableSpec
from varserve_service.core.ports.messages import Answer, Conditions, Header


def revisions() -> Revisions:
    return Revisions("m", 3, ["a", "b"], "epoch")


def test_a_commit_moves_the_model_and_what_it_wrote() -> None:
    """And can be taken back, to what each variable had before."""
    it = revisions()
    assert it.header == Header("m", 3, "epoch", 0)
    assert it.move(["a"]) == {"a": 0}
    assert it.move(["a", "b"]) == {"a": 1, "b": 0}
    assert (it.current, it.of("a"), it.of("b")) == (2, 2, 2)
    replaced = it.move(["b"])
    assert (it.current, it.of("b")) == (3, 3)
    it.move_back(replaced)
    assert (it.current, it.of("a"), it.of("b")) == (2, 2, 2)
    it.move_back({})
    assert it.current == 2
    assert it.header_at(1) == Header("m", 3, "epoch", 1)


def test_what_was_kept_is_gone_on_from() -> None:
    """Variables that were never written stay at 0."""
    it = revisions()
    it.restore(7, {"a": 5})
    assert (it.current, it.of("a"), it.of("b")) == (7, 5, 0)


def test_conditions() -> None:
    """Each by itself; one that is not set holds always. The refusal has what there is."""
    it = revisions()
    it.restore(7, {"a": 5})
    for conditions in (
        Conditions(),
        Conditions(epoch="epoch"),
        Conditions(model_revision=7),
        Conditions(7, "epoch"),
    ):
        it.check(conditions)
    error = refusal(it.check, Conditions(7, "e" * 100))
    assert (error.reason, error.metadata["current_epoch"]) == (Reason.EPOCH_MISMATCH, "epoch")
    assert f"expected epoch {'e' * 64!r}, found 'epoch'" in error.message
    for expected in (0, 6, 8):
        error = refusal(it.check, Conditions(model_revision=expected))
        assert error.reason is Reason.REVISION_MISMATCH
        assert error.metadata["current_revision"] == "7"
    spec = VariableSpec("a", "a", "float32", (), True, "CPU:0")
    it.check_variable(spec, None)
    it.check_variable(spec, 5)
    for expected in (0, 7):
        error = refusal(it.check_variable, spec, expected)
        assert error.reason is Reason.REVISION_MISMATCH
        assert error.metadata == {"variable": "a", "current_revision": "5"}


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", [State.MADE, State.DONE, State.FAILED])
def test_a_proposal_goes_only_where_its_table_says(before: State, after: State) -> None:
    """An answer is not given twice, and nothing becomes of what has ended."""
    proposal = Proposal(Terms())
    proposal.state = before
    answer = Answer(Header("m", 1, "e", 1), {})
    steps = {
        State.MADE: lambda: proposal.made(answer, None),
        State.DONE: lambda: proposal.done(answer),
        State.FAILED: lambda: proposal.failed(RequestError(Reason.INTERNAL, "no")),
    }
    if after not in NEXT[before]:
        with pytest.raises(AssertionError):
            steps[after]()
        assert proposal.state is before
        return
    steps[after]()
    assert proposal.state is after
    assert proposal.ended is (after is not State.MADE)
    if after is State.FAILED:
        with pytest.raises(RequestError, match="no"):
            _ = proposal.answer
    else:
        assert proposal.answer is answer


def test_the_answer_of_one_that_was_made_is_the_one_that_it_was_made_with() -> None:
    """Unless the request was answered before."""
    first, second = (Answer(Header("m", 1, "e", number), {}) for number in (1, 2))
    for given, expected in ((None, first), (second, second)):
        proposal = Proposal(Terms())
        with pytest.raises(AssertionError):
            _ = proposal.answer
        proposal.made(first, None)
        proposal.done(given)
        assert proposal.answer is expected
    assert Proposal(Terms()).leases() == ()
    with pytest.raises(NotImplementedError):
        Proposal(Terms()).make()
