"""More of a search that is there: more candidates, tokens or seeds, or a search like it under another name."""

from collections.abc import Collection
from datetime import datetime
from random import Random
from typing import Any

from pydantic import ValidationError

from api.services.control import check_text_is_there
from api.services.submission import Submission, check_depths, enumerate_spec, submit
from api.spending import used_up
from api.store.database import Database
from api.store.records import SearchRecord, seeds_of
from api.store.store import Store
from nas.architecture import Architecture
from nas.calibration import PRESETS, REMOVING
from nas.errors import ConflictError, SpecError
from nas.extension import Extension, segment_ends, trial_segments
from nas.spec import MOST_SAMPLED, MOST_TOKENS, SearchSpec
from nas.spec_file import check_absolute, spec_error
from nas.states import SearchState
from nas.views import CandidateView

_MOST_SEED = 2**63


def extend(database: Database, name: str, extension: Extension, now: datetime) -> None:
    """Adds to a search; a finished one is taken up again, one that waits goes on waiting.

    Raises NotFoundError; SpecError for an extension that adds nothing or too much; ConflictError for a search that has
    failed or was cancelled, and for one that was extended in the meantime.
    """
    if extension == Extension():
        fields = ", ".join(Extension.model_fields)
        raise SpecError("extension", "nothing", "is added", f"at least one of {fields}")
    with database.reading() as session:
        search = Store(session).searches.named(name)
        shapes = [candidate.architecture for candidate in Store(session).candidates.of_search(search.id)]
    _check_tokens(search, extension)
    if extension.candidates or extension.tokens or extension.seeds:
        with database.reading() as session:
            check_text_is_there(Store(session), search)
    if (
        extension.spending is not None
        and extension.spending.money is not None
        and search.spec.hardware.price_per_hour is None
    ):
        problem = "is given, but the search has no hardware.price_per_hour"
        raise SpecError("spending.money", extension.spending.money, problem, "device_hours instead")
    # Outside of any transaction: it takes as long as the space is large.
    drawn = _more_candidates(search.spec, shapes, extension.candidates) if extension.candidates else []
    with database.transaction() as session:
        store = Store(session)
        current = store.searches.named(name, lock=True)
        if current.state in (SearchState.FAILED, SearchState.CANCELLED):
            raise ConflictError("search", name, f"is {current.state}", "one that is taken up again first")
        proposed = store.candidates.count(current.id) != len(shapes)
        if current.extensions != search.extensions or (drawn and proposed):
            raise ConflictError("search", name, "was extended otherwise just now", "the same request again")
        seeds = seeds_of(store.candidates.of_search(current.id))
        new = [(search.spec.seed + len(seeds) + number) % _MOST_SEED for number in range(extension.seeds)]
        store.searches.extend(current.id, extension, now)
        if current.state is SearchState.STOPPED and current.reason is not None:
            extended = store.searches.get(current.id)
            store.searches.say_why(current.id, used_up(store, extended, now))
        if drawn:
            store.candidates.add(current.id, drawn, seeds)
        if new:
            store.candidates.add_seeds(current.id, new)
        if drawn or new or extension.tokens:
            store.searches.reopen(current.id, now)


def clone(database: Database, name: str, new_name: str, changes: dict[str, Any], now: datetime) -> Submission:
    """Submits a search like another under a name of its own; `changes` is a JSON merge patch of the spec.

    Raises NotFoundError, and whatever submitting raises; ConflictError for a name that is taken.
    """
    with database.reading() as session:
        spec = Store(session).searches.named(name).spec
        if Store(session).searches.find(new_name, deleted=True) is not None:
            raise ConflictError("name", new_name, "is taken", "a name that no search has")
    content = spec.model_dump(mode="json")
    if isinstance(preset := _patched(changes, "calibration", "preset"), str):
        for field in PRESETS.get(preset, {}):  # What is given goes before what a preset says, and all of a spec is.
            content["calibration"].pop(field, None)
    try:
        changed = SearchSpec.model_validate(_merged(content, {**changes, "name": new_name}))
    except ValidationError as error:
        raise spec_error(error.errors()) from error
    check_absolute(changed)
    return submit(database, changed, now)


def _patched(patch: object, *keys: str) -> object:
    """What a patch says of a nested key; None if it says nothing."""
    for key in keys:
        patch = patch.get(key) if isinstance(patch, dict) else None
    return patch


def _merged(content: object, patch: object) -> object:
    """RFC 7396: objects are merged, null takes a key away, anything else takes the place of what was there."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(content) if isinstance(content, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _check_tokens(search: SearchRecord, extension: Extension) -> None:
    ends = segment_ends(trial_segments(search.spec, [*search.extensions, extension]), search.spec.data.sequence_length)
    if ends[-1] > MOST_TOKENS:
        problem = f"comes to {ends[-1]:.2e} tokens of a trial"
        raise SpecError("tokens", extension.tokens, problem, f"at most {MOST_TOKENS:.0e}")


def _more_candidates(spec: SearchSpec, there: Collection[Architecture], count: int) -> list[CandidateView]:
    """So many shapes that fit the budget besides those that are there, drawn by the spec's seed, in order."""
    wanted = len(there) + count
    if wanted > MOST_SAMPLED:
        problem = f"would make {wanted:,} candidates"
        raise SpecError("candidates", count, problem, f"at most {MOST_SAMPLED:,} in all")
    found = enumerate_spec(spec.model_copy(update={"sample_size": wanted}))
    if found.num_fitting < wanted:
        problem = f"is more than the {found.num_fitting - len(there)} shapes that fit the budget besides"
        raise SpecError("candidates", count, problem, "fewer, or a clone with a wider space or budget")
    known = set(there)
    new = [candidate for candidate in found.candidates if candidate.architecture not in known]
    if (depths := scored_depths(spec, there)) is not None:
        new = [candidate for candidate in new if candidate.architecture.num_hidden_layers in depths]
        if len(new) < count:
            problem = f"is more than the {len(new)} shapes drawn whose number of layers the scores are of"
            raise SpecError("candidates", count, problem, "fewer, or a clone, which is calibrated anew")
    places = Random(f"{spec.seed} {len(there)}").sample(range(len(new)), count)
    drawn = [new[place] for place in sorted(places)]
    check_depths(spec, found.teacher, {candidate.architecture.num_hidden_layers for candidate in drawn})
    return drawn


def scored_depths(spec: SearchSpec, there: Collection[Architecture]) -> set[int] | None:
    """The layer counts that further candidates can have beside those that are there; None where they can have any.

    Scores that are of numbers of layers were measured for those of the candidates that were there.
    """
    if spec.calibration.contiguous or spec.calibration.depth in REMOVING:
        return {shape.num_hidden_layers for shape in there}
    return None
