"""Submitting searches: what a spec would start, and starting it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from api.store.database import Database
from api.store.records import SearchRecord
from api.store.store import Store
from nas.architecture import Architecture
from nas.calibration import check_protected
from nas.cost import Cost, Served
from nas.enumeration import Enumeration, enumerate_candidates
from nas.errors import ConflictError, DataError, SpecError
from nas.hub import inspect_teacher
from nas.model_folder import ModelFolder, StoredDtype
from nas.questions import question_records
from nas.spec import MOST_CANDIDATES, SearchSpec
from nas.states import Intent, SearchState
from nas.text import check_text
from nas.training_cost import Retraining
from nas.views import CandidateView, EnumerationView, LimitView, Removal


@dataclass(frozen=True)
class Submission:
    """What came of submitting: the search, and whether it is new."""

    search_id: int
    name: str
    created: bool


def enumerate_spec(spec: SearchSpec, *, limit: int | None = None, offset: int = 0) -> EnumerationView:
    """The teacher and the candidates of a spec with their costs, from `offset` on and `limit` of them; starts nothing.

    A folder with a config alone will do for a teacher. Raises UserError for a teacher that cannot be used and for a
    space or budget that leaves nothing.
    """
    return _enumerate(inspect_teacher(spec.teacher, whole=False), spec, limit, offset)


def _enumerate(teacher: ModelFolder, spec: SearchSpec, limit: int | None, offset: int) -> EnumerationView:
    found = _fitting(teacher, spec)
    if spec.sample_size is None:
        page = found.first(len(found) if limit is None else limit, offset)
    else:
        page = found.sample(spec.sample_size, spec.seed, limit, offset)
    return _view(teacher, spec, found, page)


def _fitting(teacher: ModelFolder, spec: SearchSpec) -> Enumeration:
    if spec.strategy.kind == "tpe" and spec.sample_size is None:
        problem = "is given, but strategy tpe has to know how many candidates it may try"
        raise SpecError("sample_size", "nothing", problem, "a number of them, such as 32")
    _check_positions(teacher, spec)
    return enumerate_candidates(
        spec.space, spec.budget, teacher.architecture, sequence_length=spec.data.sequence_length
    )


def _view(teacher: ModelFolder, spec: SearchSpec, found: Enumeration, page: Sequence[Architecture]) -> EnumerationView:
    stated = Stated(teacher.architecture, teacher.dtype, spec)
    return EnumerationView(
        teacher=teacher.architecture,
        teacher_dtype=teacher.dtype,
        teacher_cost=stated.cost(teacher.architecture),
        teacher_milliseconds=found.milliseconds(teacher.architecture),
        weights_checked=teacher.has_weights,
        num_shapes=found.num_shapes,
        removed=tuple(Removal(rule=rule, shapes=shapes) for rule, shapes in found.removed.items()),
        num_fitting=len(found),
        num_candidates=len(found) if spec.sample_size is None else min(spec.sample_size, len(found)),
        limits=tuple(LimitView(field=limit.field, rule=limit.text) for limit in found.limits),
        candidates=tuple(stated.candidate(shape, found) for shape in page),
    )


def _check_positions(teacher: ModelFolder, spec: SearchSpec) -> None:
    """Raises SpecError for sequences that are longer than the teacher was made for.

    What is only counted may be longer, unless positions are learned: then there is nothing beyond them.
    """
    length, positions = spec.data.sequence_length, teacher.max_positions
    if positions is not None and length > positions:
        problem = f"is longer than the teacher's {positions} positions"
        raise SpecError("data.sequence_length", length, problem, f"2 to {positions}")
    budget, learned = spec.budget, teacher.architecture.max_position_embeddings
    contexts = {
        "serving.context": spec.serving.context,
        "budget.memory.context": None if budget.memory is None else budget.memory.context,
        "budget.flops.context": None if budget.flops is None else budget.flops.context,
    }
    for field, context in contexts.items():
        if learned and context is not None and context > learned:
            raise SpecError(
                field, context, f"is longer than the teacher's {learned} learned positions", f"up to {learned}"
            )


class Stated:
    """Costs as the spec wants them stated, for a teacher that is stored in `dtype`."""

    def __init__(self, teacher: Architecture, dtype: StoredDtype, spec: SearchSpec) -> None:
        serving = spec.serving
        self._served = Served(
            teacher, dtype=serving.dtype or dtype, batch_size=serving.batch_size, context=spec.context
        )
        self._trial = Retraining(teacher, spec.trial, spec.hardware, spec.data.sequence_length)
        self._teacher_parameters = self.cost(teacher).parameters

    def cost(self, shape: Architecture) -> Cost:
        return self._served.cost(shape)

    def candidate(self, shape: Architecture, found: Enumeration) -> CandidateView:
        own = self.cost(shape)
        return CandidateView(
            architecture=shape,
            cost=own,
            trial=self._trial.cost(shape),
            share_of_teacher=own.parameters / self._teacher_parameters,
            budgeted=found.budgeted(shape),
            milliseconds=found.milliseconds(shape),
        )


def submit(database: Database, spec: SearchSpec, now: datetime) -> Submission:
    """Creates the search, or finds the one of this name; a failed or cancelled one is taken up again, and one
    that is being cancelled goes on. One that is paused or stopped stays so.

    A search that ended before its first trial was queued gives way to a mended spec of its name.

    Raises UserError for a bad spec, before anything is written, and ConflictError if a search of this name has
    another spec. Teacher and text are looked at outside of any transaction: that takes as long as they are large.
    """
    with database.reading() as session:
        existing = _settled(Store(session), spec)
    if existing is not None and not _is_to_be_taken_up(existing):
        return Submission(existing.id, existing.name, created=False)
    found = _checked(spec)
    try:
        with database.transaction() as session:
            return _begin(Store(session), spec, found, now)
    except IntegrityError:
        # Another request has created a search of this name in the meantime: only that key can be in the way.
        with database.reading() as session:
            created = _settled(Store(session), spec)
        if created is None:
            raise
        return Submission(created.id, created.name, created=False)


def _begin(store: Store, spec: SearchSpec, found: EnumerationView, now: datetime) -> Submission:
    giving_way = store.searches.find(spec.name, lock=True)
    existing = _settled(store, spec)
    if existing is None:
        if giving_way is not None:
            store.searches.discard(giving_way.id)
        search = store.searches.add(spec, found, now)
        return Submission(search.id, search.name, created=True)
    if existing.intent is Intent.CANCEL and store.searches.ask(existing.id, Intent.RUN, now):
        return Submission(existing.id, existing.name, created=False)
    if existing.state in (SearchState.FAILED, SearchState.CANCELLED):
        store.searches.reopen(existing.id, now)
        store.jobs.retry(existing.id, now)
    return Submission(existing.id, existing.name, created=False)


def num_drawn(spec: SearchSpec) -> int | None:
    """How many candidates are drawn when a search begins, if that many fit; None for all that do."""
    if spec.strategy.kind == "tpe" and spec.sample_size is not None:
        return min(spec.strategy.startup, spec.sample_size)
    return spec.sample_size


def _is_to_be_taken_up(search: SearchRecord) -> bool:
    """One that failed, was cancelled, or is being cancelled; one that waits does so until it is resumed."""
    cancelling = search.state is SearchState.RUNNING and search.intent is Intent.CANCEL
    return cancelling or search.state in (SearchState.FAILED, SearchState.CANCELLED)


def _settled(store: Store, spec: SearchSpec) -> SearchRecord | None:
    """The search of this name and spec, if there is one. Raises ConflictError for one that cannot give way."""
    existing = store.searches.find(spec.name, deleted=True)
    if existing is not None and store.searches.find(spec.name) is None:
        problem = "names a search that is being deleted"
        raise ConflictError("name", spec.name, problem, "another name, or this one once that is gone")
    if existing is None or existing.spec == spec:
        return existing
    ended = existing.state in (SearchState.FAILED, SearchState.CANCELLED)
    if ended and all(job.trial_id is None for job in store.jobs.of_search(existing.id)):
        return None
    changed = [name for name in SearchSpec.model_fields if getattr(existing.spec, name) != getattr(spec, name)]
    problem = f"names a search that was begun with another {', '.join(changed)}"
    raise ConflictError("name", spec.name, problem, "the spec it was begun with, or another name")


def _checked(spec: SearchSpec) -> EnumerationView:
    """The candidates that a search begins with. Raises UserError for too many of them, and for text not there."""
    teacher = inspect_teacher(spec.teacher)
    found = _fitting(teacher, spec)
    if spec.sample_size is None and len(found) > MOST_CANDIDATES:
        problem = f"is given, but {len(found):,} shapes fit the budget"
        raise SpecError("sample_size", "nothing", problem, f"a number of them to try, such as {MOST_CANDIDATES}")
    drawn = found.sample(num_drawn(spec) or len(found), spec.seed)
    # What is proposed later must do as well.
    depths = found.depths if spec.strategy.kind == "tpe" else {shape.num_hidden_layers for shape in drawn}
    check_depths(spec, found.teacher, depths)
    check_texts(spec)
    return _view(teacher, spec, found, drawn)


def check_depths(spec: SearchSpec, teacher: Architecture, depths: set[int]) -> None:
    """Raises SpecError where candidates of these depths cannot be cut, or not be taught, as the spec says."""
    check_protected(spec.calibration, teacher, depths)
    layers = teacher.num_hidden_layers
    deep = sorted(depth for depth in depths if spec.distillation.terms(layers, depth))
    if spec.trial.targets != "live" and deep:
        problem = f"is for logits alone, but candidates of {deep[0]} of {layers} layers learn hidden states too"
        raise SpecError("trial.targets", spec.trial.targets, problem, "live, or distillation.hidden_states []")
    if spec.trial.targets == "top_k" and spec.trial.targets_per_token > teacher.vocab_size:
        problem = f"is more than the {teacher.vocab_size} entries of the vocabulary"
        raise SpecError("trial.targets_per_token", spec.trial.targets_per_token, problem, f"1 to {teacher.vocab_size}")
    if "hidden_layers" in spec.distillation.model_fields_set:
        for of_teacher, of_student in spec.distillation.hidden_layers:
            for layer, whose, count in ((of_teacher, "teacher", layers), (of_student, "student", min(deep, default=0))):
                if count and not -count <= layer < count:
                    problem = f"has layer {layer} of a {whose} of {count} layers"
                    pairs = [list(pair) for pair in spec.distillation.hidden_layers]
                    raise SpecError("distillation.hidden_layers", pairs, problem, f"-{count} to {count - 1}")


def check_texts(spec: SearchSpec) -> None:
    """Raises DataError for text that is not there, and for questions of which one is none; they are all read."""
    for source in spec.data.all_sources:
        for text in (source.training, source.validation):
            if text is not None:
                check_text(text)
    if spec.data.prepared is not None and not Path(spec.data.prepared).is_dir():
        accepted = "a folder that topiary prepare-data made of just this data"
        raise DataError("data.prepared", spec.data.prepared, "is no folder that is there", accepted)
    if spec.calibration.questions is not None:
        for _ in question_records(Path(spec.calibration.questions)):
            pass
    if spec.promotion.gate is not None:
        for _ in question_records(Path(spec.promotion.gate.questions), "promotion.gate.questions"):
            pass
