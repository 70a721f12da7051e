"""Decisions of strategies, promotions of winners, and the models that they end in."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from api.store.events import Events
from api.store.records import ModelRecord, PromotionRecord
from api.store.tables import CandidateRow, DecisionRow, JobRow, ModelRow, PromotionRow, TrialRow
from nas.jobs import Exported
from nas.states import Intent, JobState
from nas.strategy import Advance, Decision
from nas.views import EventKind

_ASKED_AT_ONCE = 1000
"""Values in one statement, of which databases take only so many."""


class Decisions:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)

    def add(
        self, search_id: int, decisions: Iterable[Decision], candidate_ids: Mapping[int, int], now: datetime
    ) -> None:
        """In the order in which they were said; `candidate_ids` are those of the trials."""
        rows: list[dict[str, Any]] = [
            {
                "trial_id": decision.trial_id,
                "action": "advance" if isinstance(decision, Advance) else "stop",
                "until_tokens": decision.until_tokens if isinstance(decision, Advance) else None,
                "reason": None if isinstance(decision, Advance) else decision.reason,
            }
            for decision in decisions
        ]
        if rows:
            self._session.execute(insert(DecisionRow), [{**row, "made_at": now} for row in rows])
        for row in rows:
            candidate_id = candidate_ids[row.pop("trial_id")]
            self._events.append(EventKind.DECIDED, search_id, now, candidate_id=candidate_id, **row)

    def num_silent(self, search_id: int) -> int:
        """How many trials of a search nothing was ever said of."""
        told = select(DecisionRow.id).where(DecisionRow.trial_id == TrialRow.id)
        return (
            self._session.scalar(
                select(func.count())
                .select_from(TrialRow)
                .join(CandidateRow, CandidateRow.id == TrialRow.candidate_id)
                .where(CandidateRow.search_id == search_id, ~told.exists())
            )
            or 0
        )

    def told_tokens(self, trial_ids: Iterable[int]) -> dict[int, int]:
        """How far each trial was told to go, 0 where nothing was said."""
        ids = list(trial_ids)
        told: dict[int, int] = {}
        for start in range(0, len(ids), _ASKED_AT_ONCE):
            rows = self._session.execute(
                select(DecisionRow.trial_id, func.max(DecisionRow.until_tokens))
                .where(DecisionRow.trial_id.in_(ids[start : start + _ASKED_AT_ONCE]))
                .group_by(DecisionRow.trial_id)
            )
            told |= {trial_id: tokens or 0 for trial_id, tokens in rows}
        return {trial_id: told.get(trial_id, 0) for trial_id in ids}


class Promotions:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)

    def add(self, search_id: int, trial_id: int, num_retrained: int, now: datetime) -> int:
        """A new promotion, decided once so many trials had been retrained."""
        row = PromotionRow(trial_id=trial_id, intent=Intent.RUN, extensions=[], num_retrained=num_retrained)
        self._session.add(row)
        self._session.flush()
        self._events.append(EventKind.PROMOTED, search_id, now, trial_id=trial_id, promotion_id=row.id)
        return row.id

    def of_search(self, search_id: int) -> list[PromotionRecord]:
        rows = self._session.scalars(
            select(PromotionRow)
            .join(TrialRow, TrialRow.id == PromotionRow.trial_id)
            .join(CandidateRow, CandidateRow.id == TrialRow.candidate_id)
            .where(CandidateRow.search_id == search_id)
            .order_by(PromotionRow.id)
        )
        return [_promotion_record(row) for row in rows]

    def held_back(self) -> dict[int, Intent]:
        """Promotions that their users hold back and that have jobs queued or running, with what is wanted of them."""
        is_open = JobRow.state.in_([JobState.QUEUED, JobState.RUNNING])
        # Begun at the few promotions, not at the thousands of jobs that may be queued.
        has_work = select(JobRow.id).where(JobRow.promotion_id == PromotionRow.id, is_open).exists()
        rows = self._session.execute(
            select(PromotionRow.id, PromotionRow.intent).where(PromotionRow.intent != Intent.RUN, has_work)
        )
        return {promotion_id: Intent(intent) for promotion_id, intent in rows}

    def ask(self, search_id: int, promotion_id: int, intent: Intent, now: datetime) -> None:
        """Writes down what is wanted of a promotion, for the scheduler to bring about."""
        row = self._session.get_one(PromotionRow, promotion_id)
        if row.intent != intent:
            row.intent = intent
            self._session.flush()
            self._events.append(_ASKED[intent], search_id, now, trial_id=row.trial_id, promotion_id=promotion_id)

    def extend(self, search_id: int, promotion_id: int, tokens: int, now: datetime) -> None:
        row = self._session.get_one(PromotionRow, promotion_id)
        row.extensions = [*row.extensions, tokens]
        self._session.flush()
        kind = EventKind.PROMOTION_EXTENDED
        self._events.append(kind, search_id, now, trial_id=row.trial_id, promotion_id=promotion_id, tokens=tokens)

    def add_model(
        self, search_id: int, promotion: PromotionRecord, segment: int, exported: Exported, now: datetime
    ) -> None:
        row = ModelRow(
            promotion_id=promotion.id,
            segment=segment,
            folder=exported.folder,
            parameters=exported.parameters,
            loss=exported.loss,
            created_at=now,
        )
        self._session.add(row)
        self._session.flush()
        self._events.append(
            EventKind.EXPORTED, search_id, now, trial_id=promotion.trial_id, model_id=row.id, loss=exported.loss
        )

    def models(self, promotion_ids: Iterable[int]) -> dict[int, ModelRecord]:
        """By promotion, the newest of each."""
        mine = ModelRow.promotion_id.in_(list(promotion_ids))
        rows = self._session.scalars(select(ModelRow).where(mine).order_by(ModelRow.segment))
        return {row.promotion_id: _model_record(row) for row in rows}

    def search_of_model(self, model_id: int) -> int | None:
        """The search that a model came from, if there is such a model."""
        return self._session.scalar(
            select(CandidateRow.search_id)
            .join(TrialRow, TrialRow.candidate_id == CandidateRow.id)
            .join(PromotionRow, PromotionRow.trial_id == TrialRow.id)
            .join(ModelRow, ModelRow.promotion_id == PromotionRow.id)
            .where(ModelRow.id == model_id)
        )


_ASKED = {
    Intent.RUN: EventKind.PROMOTION_RESUMED,
    Intent.PAUSE: EventKind.PROMOTION_PAUSING,
    Intent.CANCEL: EventKind.PROMOTION_CANCELLING,
}


def _promotion_record(row: PromotionRow) -> PromotionRecord:
    return PromotionRecord(
        id=row.id,
        trial_id=row.trial_id,
        intent=Intent(row.intent),
        extensions=tuple(row.extensions),
        num_retrained=row.num_retrained,
    )


def _model_record(row: ModelRow) -> ModelRecord:
    return ModelRecord(
        id=row.id,
        promotion_id=row.promotion_id,
        segment=row.segment,
        folder=row.folder,
        parameters=row.parameters,
        loss=row.loss,
        created_at=row.created_at,
    )
