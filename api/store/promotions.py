"""Decisions of strategies, promotions of winners, and the models that they end in."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.store.events import Events
from api.store.records import ModelRecord, PromotionRecord
from api.store.tables import CandidateRow, DecisionRow, ModelRow, PromotionRow, TrialRow
from nas.jobs import Exported
from nas.strategy import Advance, Decision
from nas.views import EventKind


class Decisions:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)

    def add(self, search_id: int, decision: Decision, now: datetime) -> None:
        advance = isinstance(decision, Advance)
        until_tokens = decision.until_tokens if isinstance(decision, Advance) else None
        reason = None if isinstance(decision, Advance) else decision.reason
        action = "advance" if advance else "stop"
        self._session.add(
            DecisionRow(
                trial_id=decision.trial_id, action=action, until_tokens=until_tokens, reason=reason, made_at=now
            )
        )
        self._events.append(
            EventKind.DECIDED,
            search_id,
            now,
            trial_id=decision.trial_id,
            action=action,
            until_tokens=until_tokens,
            reason=reason,
        )

    def told_tokens(self, trial_ids: Iterable[int]) -> dict[int, int]:
        """How far each trial was told to go, 0 where nothing was said."""
        ids = list(trial_ids)
        rows = self._session.execute(
            select(DecisionRow.trial_id, func.max(DecisionRow.until_tokens))
            .where(DecisionRow.trial_id.in_(ids))
            .group_by(DecisionRow.trial_id)
        )
        told = {trial_id: tokens or 0 for trial_id, tokens in rows}
        return {trial_id: told.get(trial_id, 0) for trial_id in ids}


class Promotions:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)

    def add(self, search_id: int, trial_id: int, now: datetime) -> int:
        row = PromotionRow(trial_id=trial_id)
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
        return [PromotionRecord(row.id, row.trial_id) for row in rows]

    def add_model(self, search_id: int, promotion: PromotionRecord, exported: Exported, now: datetime) -> None:
        row = ModelRow(
            promotion_id=promotion.id,
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
        """By promotion."""
        rows = self._session.scalars(select(ModelRow).where(ModelRow.promotion_id.in_(list(promotion_ids))))
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


def _model_record(row: ModelRow) -> ModelRecord:
    return ModelRecord(
        id=row.id,
        promotion_id=row.promotion_id,
        folder=row.folder,
        parameters=row.parameters,
        loss=row.loss,
        created_at=row.created_at,
    )
