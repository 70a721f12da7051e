"""Measurements: the points of every curve, written once and never changed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, insert, or_, select, union_all
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from api.store.events import Events, trial_of
from api.store.records import JobRecord
from api.store.tables import CandidateRow, MeasurementRow, PromotionRow, SequenceLossesRow, TrialRow
from nas.errors import StoreError
from nas.jobs import Measurement
from nas.ranking import CurvePoint
from nas.views import EventKind

_ASKED_AT_ONCE = 1000


@dataclass(frozen=True)
class SearchCurves:
    """The points of every trial and promotion of a search, by id, in the order of tokens."""

    of_trial: dict[int, tuple[CurvePoint, ...]]
    of_promotion: dict[int, tuple[CurvePoint, ...]]


class Curves:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)

    def record(self, job: JobRecord, measurement: Measurement, now: datetime) -> bool:
        """Adds a point to the curve of a job's trial or promotion; whether it is new: one that is there stays.

        Raises StoreError for losses that are not finite: PostgreSQL would take them.
        """
        if not (isfinite(measurement.loss) and isfinite(measurement.kl_to_teacher)):
            raise StoreError(f"losses of {measurement.loss} and {measurement.kl_to_teacher} are no measurement")
        dialect = self._session.get_bind().dialect.name
        # The unique key decides, so two that record the same point at once cannot both add it.
        statement = (postgresql if dialect == "postgresql" else sqlite).insert(MeasurementRow)
        added = self._session.scalar(
            statement.values(
                trial_id=job.trial_id,
                promotion_id=job.promotion_id,
                tokens=measurement.tokens,
                loss=measurement.loss,
                kl_to_teacher=measurement.kl_to_teacher,
            )
            .on_conflict_do_nothing()
            .returning(MeasurementRow.id)
        )
        if added is None:
            return False
        losses = np.asarray(measurement.loss_per_sequence, dtype="<f4").tobytes()
        self._session.execute(insert(SequenceLossesRow).values(measurement_id=added, losses=losses))
        self._events.append(
            EventKind.MEASURED,
            job.search_id,
            now,
            trial_id=trial_of(self._session, job.trial_id, job.promotion_id),
            job_id=job.id,
            run="trial" if job.promotion_id is None else "promotion",
            tokens=measurement.tokens,
            loss=measurement.loss,
            kl_to_teacher=measurement.kl_to_teacher,
        )
        return True

    def tokens_behind(self, search_id: int) -> int:
        """The tokens of all retraining that was measured: of every trial and promotion, its furthest point."""
        trials = select(TrialRow.id).join(CandidateRow, CandidateRow.id == TrialRow.candidate_id)
        trials = trials.where(CandidateRow.search_id == search_id)
        promotions = select(PromotionRow.id).where(PromotionRow.trial_id.in_(trials))
        total = 0
        for run, mine in ((MeasurementRow.trial_id, trials), (MeasurementRow.promotion_id, promotions)):
            furthest = select(func.max(MeasurementRow.tokens).label("tokens")).where(run.in_(mine)).group_by(run)
            total += self._session.scalar(select(func.sum(furthest.subquery().c.tokens))) or 0
        return int(total)

    def sequence_losses(
        self, *, trial_ids: Sequence[int] = (), promotion_ids: Sequence[int] = ()
    ) -> list[tuple[int, NDArray[np.float32]]]:
        """The losses of every validation sequence at every measurement of these runs, with its tokens, by tokens."""
        mine = or_(MeasurementRow.trial_id.in_(trial_ids), MeasurementRow.promotion_id.in_(promotion_ids))
        statement = select(MeasurementRow.tokens, SequenceLossesRow.losses).join(
            SequenceLossesRow, SequenceLossesRow.measurement_id == MeasurementRow.id
        )
        rows = self._session.execute(statement.where(mine).order_by(MeasurementRow.tokens))
        return [(tokens, np.frombuffer(losses, dtype="<f4")) for tokens, losses in rows]

    def sequences_at(self, tokens: int, trial_ids: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """By trial, of these: the losses of every validation sequence after so many tokens."""
        found: dict[int, NDArray[np.float32]] = {}
        columns = select(MeasurementRow.trial_id, SequenceLossesRow.losses).join(
            SequenceLossesRow, SequenceLossesRow.measurement_id == MeasurementRow.id
        )
        for start in range(0, len(trial_ids), _ASKED_AT_ONCE):
            mine = MeasurementRow.trial_id.in_(trial_ids[start : start + _ASKED_AT_ONCE])
            rows = self._session.execute(columns.where(mine, MeasurementRow.tokens == tokens))
            found |= {trial_id: np.frombuffer(losses, dtype="<f4") for trial_id, losses in rows if trial_id is not None}
        return found

    def of_search(self, search_id: int) -> SearchCurves:
        of_trial: dict[int, list[CurvePoint]] = defaultdict(list)
        of_promotion: dict[int, list[CurvePoint]] = defaultdict(list)
        columns = (
            MeasurementRow.trial_id,
            MeasurementRow.promotion_id,
            MeasurementRow.tokens,
            MeasurementRow.loss,
            MeasurementRow.kl_to_teacher,
        )
        mine = CandidateRow.search_id == search_id
        candidate = CandidateRow.id == TrialRow.candidate_id
        trials = select(*columns).join(TrialRow, TrialRow.id == MeasurementRow.trial_id)
        promotions = (
            select(*columns)
            .join(PromotionRow, PromotionRow.id == MeasurementRow.promotion_id)
            .join(TrialRow, TrialRow.id == PromotionRow.trial_id)
        )
        # Two queries in one, each along its index; with an OR, PostgreSQL would read all measurements there are.
        both = union_all(
            trials.join(CandidateRow, candidate).where(mine), promotions.join(CandidateRow, candidate).where(mine)
        )
        rows = self._session.execute(both.order_by("tokens"))
        for trial_id, promotion_id, tokens, loss, kl_to_teacher in rows:
            point = CurvePoint(tokens=tokens, loss=loss, kl_to_teacher=kl_to_teacher)
            if trial_id is not None:
                of_trial[trial_id].append(point)
            elif promotion_id is not None:
                of_promotion[promotion_id].append(point)
        return SearchCurves(
            {key: tuple(points) for key, points in of_trial.items()},
            {key: tuple(points) for key, points in of_promotion.items()},
        )
