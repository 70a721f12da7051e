"""Strategy `tpe`: which candidates are tried next, from how those that were tried have done.

Optuna's samplers keep a state of their own, so the study is made anew from what is on record each time.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from api.services.extending import scored_depths
from api.services.submission import Stated
from api.standing import standings
from api.store.records import CandidateRecord, SearchRecord, seeds_of
from api.store.store import Store
from nas.architecture import AXES, Architecture, Axis
from nas.enumeration import Enumeration, enumerate_candidates
from nas.nearest import Sizes, nearest
from nas.polynomial import Integers
from nas.views import EventKind

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Tried = tuple[Architecture, float | None]
"""A candidate, and its loss in nats per token; None where all its trials failed."""

_SEEDS = 2**32
"""As many as NumPy's older generators take, which Optuna draws by."""


def num_to_come(search: SearchRecord, num_there: int) -> int:
    """How many candidates are still to be proposed, if that many fit; those of extensions come on top."""
    spec = search.spec
    if spec.strategy.kind != "tpe" or spec.sample_size is None:
        return 0
    wanted = spec.sample_size + sum(extension.candidates for extension in search.extensions)
    return max(0, min(wanted, search.num_fitting) - num_there)


def add_proposed(store: Store, search: SearchRecord, now: datetime) -> bool:
    """Adds the next candidates that the strategy proposes, whether it did: not before any has ended well, which would
    have nothing to go by, not when all that were asked for are there, and not once there are winners.

    To be called when all trials have ended. Raises UserError for a latency table that is gone.
    """
    candidates = store.candidates.of_search(search.id)
    count = min(search.spec.strategy.batch, num_to_come(search, len(candidates)))
    if not count or not store.jobs.num_retrained(search.id) or store.promotions.of_search(search.id):
        return False
    spec = search.spec
    found = enumerate_candidates(spec.space, spec.budget, search.teacher, sequence_length=spec.data.sequence_length)
    proposed = propose(
        found,
        _tried(store, search, candidates),
        seed=spec.seed + len(candidates),
        count=count,
        startup=spec.strategy.startup,
        depths=scored_depths(spec, [candidate.architecture for candidate in candidates]),
    )
    if not proposed:
        return False
    stated = Stated(search.teacher, search.teacher_dtype or "float32", spec)  # Only counts of it are kept.
    new = [stated.candidate(shape, found) for shape in proposed]
    store.candidates.add(search.id, new, seeds_of(candidates))
    store.events.append(EventKind.SEARCH_EXTENDED, search.id, now, candidates=len(new))
    return True


def _tried(store: Store, search: SearchRecord, candidates: Sequence[CandidateRecord]) -> list[Tried]:
    """Gross rejects count with the loss that they were given up at."""
    rows = standings(candidates, store.jobs.of_trials(search.id), store.curves.of_search(search.id))
    return [(row.architecture, row.loss if row.rank is not None else None) for row in rows]


def propose(
    found: Enumeration,
    history: Sequence[Tried],
    *,
    seed: int,
    count: int,
    startup: int,
    depths: Collection[int] | None = None,
) -> list[Architecture]:
    """`count` candidates that were not tried, fewer where fewer are left: what Optuna's TPE asks for, each snapped to
    the nearest.

    The same history in any order proposes the same. While fewer than `startup` have a loss, they are drawn at random.
    With `depths`, only candidates of so many layers count.
    """
    import optuna
    from optuna.samplers import TPESampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Every study would be announced.
    study = optuna.create_study(sampler=TPESampler(seed=seed % _SEEDS, n_startup_trials=startup, constant_liar=True))
    distributions = _distributions(found)
    ordered = sorted(history, key=lambda tried: tried[0].axes)
    Random(seed).shuffle(ordered)  # Of many, TPE gives those that come first less weight.
    study.add_trials(_trial(shape.axes, loss, distributions) for shape, loss in ordered if loss is not None)
    seen, proposed = {shape.axes for shape, _ in history}, list[Architecture]()
    for _ in range(count):
        asked = study.ask(distributions)
        target: dict[Axis, float] = {axis: asked.params[axis] for axis in AXES if axis in distributions}
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # It is the nearest that will be tried, not this.
        sizes = nearest(found, target, seen, depths)
        if sizes is None:
            break
        study.add_trial(_trial(sizes, None, distributions))
        seen.add(sizes)
        proposed.append(found.teacher.resized(**dict(zip(AXES, sizes, strict=True))))
    return proposed


def _distributions(found: Enumeration) -> "dict[str, BaseDistribution]":
    """From the smallest to the largest size along each axis, evenly in the logarithm, in which the nearest is looked
    for too; of key-value heads only where they do not follow the heads."""
    from optuna.distributions import IntDistribution

    grid = found.grid
    sizes: dict[Axis, list[Integers]] = {
        "num_hidden_layers": [np.array(grid.layers)],
        "hidden_size": [np.array([plane.hidden_size for plane in grid.planes])],
        "intermediate_size": [plane.intermediate for plane in grid.planes],
        "num_attention_heads": [plane.heads for plane in grid.planes],
        "num_experts": [plane.experts for plane in grid.planes],
    }
    if not all(np.array_equal(plane.heads, plane.key_values) for plane in grid.planes):
        sizes["num_key_value_heads"] = [plane.key_values for plane in grid.planes]
    ranges = {axis: (int(min(map(np.min, own))), int(max(map(np.max, own)))) for axis, own in sizes.items()}
    return {axis: IntDistribution(low, high, log=True) for axis, (low, high) in ranges.items() if low < high}


def _trial(sizes: Sizes, loss: float | None, distributions: "dict[str, BaseDistribution]") -> "FrozenTrial":
    """A candidate that was tried; one without a loss is to be tried, and TPE looks elsewhere for more."""
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.RUNNING if loss is None else TrialState.COMPLETE,
        value=loss,
        params={axis: size for axis, size in zip(AXES, sizes, strict=True) if axis in distributions},
        distributions=distributions,
    )
