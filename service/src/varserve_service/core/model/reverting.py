"""A revert: earlier values of variables, brought back by a new commit. Owns no state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack

from varserve_service.core.change.changes import Change
from varserve_service.core.commit.proposal import ChangeProposal, Terms
from varserve_service.core.ports.commits import CommitKind, CommitListener
from varserve_service.core.ports.messages import Answer

from .parts import Parts
from .timeline import Timeline


def revert(
    parts: Parts,
    timeline: Timeline,
    revision: int,
    paths: Collection[str],
    terms: Terms,
    on_commit: CommitListener | None,
) -> Answer:
    """Give variables the values that they had at a revision; `paths` empty: all written since.

    Raises RequestError, with nothing changed.
    """
    committer, epoch = parts.committer, terms.conditions.epoch
    with ExitStack() as copies:
        with parts.lock.shared(terms.deadline):
            answer = committer.answered(terms.request)
            if answer is not None:  # even if the history no longer reaches back
                return answer
            seen = parts.revisions.current
            reversals = timeline.reversals(revision, paths, epoch)
            copied = sum(reversal.copied_bytes for reversal in reversals)
            copies.enter_context(parts.memory.reserve_both(copied, "the revert"))
            for reversal in reversals:
                reversal.take()
        worked_out = [reversal.change() for reversal in reversals]

    def changes() -> Sequence[Change]:
        if parts.revisions.current == seen:
            return worked_out
        overtaken = timeline.reversals(revision, paths, epoch)
        for reversal in overtaken:
            reversal.take()
        return [reversal.change() for reversal in overtaken]

    replaced = sum(change.replaced_bytes for change in worked_out)
    kept = [(change.variable, change.value.nbytes) for change in worked_out]
    with (
        parts.memory.device.reserve(replaced, "what the revert replaces"),
        committer.room_to_keep(kept, "the revert"),
    ):
        proposal = ChangeProposal(
            terms, CommitKind.REVERT, parts.loaded, changes, needs_history=True
        )
        return committer.commit(proposal, on_commit)
