"""Submitting searches: what a spec would start, and starting it."""

from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from api.store.repository import Repository
from nas.cost import cost
from nas.errors import ConflictError, SpecError
from nas.model_folder import inspect_model_folder
from nas.space import enumerate_candidates
from nas.spec import SearchSpec
from nas.text import read_documents, text_files
from nas.views import CandidateView, EnumerationView


def enumerate_spec(spec: SearchSpec) -> EnumerationView:
    """The teacher and the candidates of a spec with their costs; starts nothing.

    Raises UserError for a teacher that cannot be used and for a space or budget that leaves nothing.
    """
    teacher = inspect_model_folder(Path(spec.teacher))
    length, positions = spec.data.sequence_length, teacher.config.get("max_position_embeddings")
    if positions is not None and length > positions:
        problem = f"is longer than the teacher's {positions} positions"
        raise SpecError("data.sequence_length", length, problem, f"2 to {positions}")
    teacher_cost = cost(teacher.architecture, dtype=teacher.dtype, sequence_length=length)
    found = enumerate_candidates(spec.space, spec.budget, teacher.architecture)
    return EnumerationView(
        teacher=teacher.architecture,
        teacher_cost=teacher_cost,
        candidates=tuple(
            CandidateView(
                architecture=architecture,
                cost=(own := cost(architecture, dtype=teacher.dtype, sequence_length=length)),
                share_of_teacher=own.parameters / teacher_cost.parameters,
            )
            for architecture in found.candidates
        ),
        num_illegal=found.num_illegal,
        num_outside_budget=found.num_outside_budget,
    )


def submit(session: Session, spec: SearchSpec, now: datetime) -> int:
    """Creates the search, or finds the one of this name; a failed one has its failed jobs queued again.

    A search that failed before any candidate was retrained gives way to a mended spec of its name.

    Raises UserError for a bad spec, before anything is written, and ConflictError if a search of this name has
    another spec.
    """
    repository = Repository(session)
    existing = repository.search_named(spec.name)
    if existing is not None and existing.spec != spec and repository.is_untouched(existing):
        # It failed before any retraining: nothing is lost if the mended spec begins anew.
        enumerate_spec(spec)
        repository.discard(existing.id)
        existing = None
    if existing is None:
        found = enumerate_spec(spec)
        _check_text(spec)
        return repository.add_search(spec, found.teacher, found.candidates, now)
    if existing.spec != spec:
        changed = [name for name in SearchSpec.model_fields if getattr(existing.spec, name) != getattr(spec, name)]
        problem = f"names a search that was begun with another {', '.join(changed)}"
        raise ConflictError("name", spec.name, problem, "the spec it was begun with, or another name")
    if existing.state == "failed":
        _check_text(spec)
        repository.retry_failed(existing.id)
        repository.set_search_state(existing.id, "running", None, now)
    return existing.id


def _check_text(spec: SearchSpec) -> None:
    """Fails early on text that is not there or whose first document cannot be read."""
    for field, path in (("data.train", spec.data.train), ("data.validation", spec.data.validation)):
        if path is not None:
            text_files(Path(path), field=field)
            next(read_documents(Path(path), spec.data.text_field, field=field), None)
