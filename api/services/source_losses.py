"""A candidate's loss on each of several sources, from the losses of the validation sequences, which are in order."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from api.store.records import JobRecord
from api.store.store import Store
from nas.jobs import DataPrepared
from nas.views import SourceCurve, SourcePoint


def source_curves(
    store: Store, jobs: Sequence[JobRecord], trial_ids: Sequence[int], promotion_ids: Sequence[int]
) -> tuple[SourceCurve, ...]:
    """One for each source of a search's text, of these trials together and of the promotion; none for a single one."""
    sources = next((job.result.sources for job in jobs if isinstance(job.result, DataPrepared)), ())
    if len(sources) < 2:
        return ()
    ends = list(accumulate(source.validation_sequences for source in sources))
    trials = store.curves.sequence_losses(trial_ids=trial_ids)
    promotions = store.curves.sequence_losses(promotion_ids=promotion_ids)
    return tuple(
        SourceCurve(
            name=source.name,
            validation_sequences=source.validation_sequences,
            trial=_points(trials, slice(end - source.validation_sequences, end)),
            promotion=_points(promotions, slice(end - source.validation_sequences, end)),
        )
        for source, end in zip(sources, ends, strict=True)
    )


def _points(measured: Sequence[tuple[int, NDArray[np.float32]]], own: slice) -> tuple[SourcePoint, ...]:
    """The mean over a source's own sequences, and over the runs that were measured at the same tokens."""
    at: dict[int, list[float]] = defaultdict(list)
    for tokens, losses in measured:
        if len(losses) >= own.stop:
            at[tokens].append(float(losses[own].astype(np.float64).mean()))
    return tuple(
        SourcePoint(tokens=tokens, loss=sum(found) / len(found), num_seeds=len(found)) for tokens, found in at.items()
    )
