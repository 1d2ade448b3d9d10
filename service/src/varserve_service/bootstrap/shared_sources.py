"""What a replica serves from the start: the versions that labels mean in all replicas."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from varserve_service.core.errors import JournalError, ModelLoadError, StateStoreUnavailable
from varserve_service.core.ports.shared_labels import SharedLabels
from varserve_service.repository import ModelSource, Repository, RepositoryError

log = structlog.get_logger("varserve.bootstrap")

Sources = list[tuple[ModelSource, tuple[str, ...]]]
"""Each source with its labels."""


def shared_sources(own: Sources, labels: SharedLabels, repository: Repository) -> Sources:
    """The sources that the labels of all replicas mean; `own` are those of this one's settings.

    The first replica that serves a model decides what its labels mean, by its settings. It does so
    again where none serves it any more, and a version is gone. Raises ModelLoadError where others
    serve a version that is not here, JournalError when the database cannot be asked.
    """
    mine: dict[str, dict[str, int]] = {}
    for source, names in own:
        mine.setdefault(source.name, {}).update(dict.fromkeys(names, source.version))
    try:
        labels.begin(mine)
        return _shared(own, mine, labels, repository)
    except StateStoreUnavailable as error:
        raise JournalError(error.message) from error


def _shared(
    own: Sources,
    mine: Mapping[str, Mapping[str, int]],
    labels: SharedLabels,
    repository: Repository,
) -> Sources:
    found: dict[ModelSource, tuple[str, ...]] = {}
    for model, meant in sorted(_meant(labels).items()):
        settings = mine.get(model)
        if settings is not None and meant != settings:
            log.info("labels are what they are in the database", model=model, labels=meant)
        for label, version in meant.items():
            here = _find(repository, model, version)
            if here is not None:
                found[here] = (*found.get(here, ()), label)
                continue
            if settings is None:
                continue  # of another service, or on its way
            if not labels.is_alone(model):
                raise ModelLoadError(
                    f"model {model!r}: label {label!r} means version {version} in all replicas, "
                    "and this one's repository has no complete SavedModel of it: put it there, or "
                    "let the label mean another version, with `varserve admin load`"
                )
            log.warning(
                "a version that a label meant is gone: the settings decide again",
                model=model,
                label=label,
                version=version,
                labels=settings,
            )
            labels.replace(model, settings)
            found = {source: names for source, names in found.items() if source.name != model}
            found |= {source: names for source, names in own if source.name == model}
            break
    return list(found.items())


def _meant(labels: SharedLabels) -> Mapping[str, dict[str, int]]:
    meant: dict[str, dict[str, int]] = {}
    for each in labels.all():
        if each.current is not None:
            meant.setdefault(each.model, {})[each.label] = each.current
    return meant


def _find(repository: Repository, model: str, version: int) -> ModelSource | None:
    try:
        return repository.find(model, version)
    except (RepositoryError, OSError):
        return None
