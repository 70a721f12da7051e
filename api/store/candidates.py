"""The candidates of a search, and their trials: one for each seed."""

from collections.abc import Iterable, Sequence

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from api.store.records import CandidateRecord, TrialRecord
from api.store.tables import CandidateRow, DecisionRow, TrialRow
from nas.architecture import Architecture
from nas.views import CandidateView


class Candidates:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, search_id: int, candidates: Sequence[CandidateView], seeds: Iterable[int]) -> None:
        """New candidates behind those that are there, in this order, with a trial for each seed."""
        first = self.count(search_id)
        rows = [
            {
                "search_id": search_id,
                "position": position,
                "architecture": candidate.architecture.model_dump(),
                "parameters": candidate.cost.parameters,
                "non_embedding_parameters": candidate.cost.non_embedding_parameters,
            }
            for position, candidate in enumerate(candidates, start=first)
        ]
        if rows:
            adding = insert(CandidateRow).returning(CandidateRow.id, sort_by_parameter_order=True)
            self._add_trials(self._session.scalars(adding, rows).all(), seeds)

    def add_seeds(self, search_id: int, seeds: Iterable[int]) -> None:
        """A trial more for each of these seeds and every candidate but those that a strategy has given up."""
        candidates = self.of_search(search_id)
        ids = [each.id for each in candidates if all(trial.stopped is None for trial in each.trials)]
        self._add_trials(ids, seeds)

    def _add_trials(self, candidate_ids: Sequence[int], seeds: Iterable[int]) -> None:
        rows = [{"candidate_id": candidate_id, "seed": seed} for seed in seeds for candidate_id in candidate_ids]
        self._session.execute(insert(TrialRow), rows)

    def count(self, search_id: int) -> int:
        query = select(func.count()).select_from(CandidateRow).where(CandidateRow.search_id == search_id)
        return self._session.scalar(query) or 0

    def of_search(self, search_id: int) -> list[CandidateRecord]:
        """In the order of enumeration."""
        rows = self._session.execute(
            select(CandidateRow, TrialRow.id, TrialRow.seed, DecisionRow.reason)
            .join(TrialRow, TrialRow.candidate_id == CandidateRow.id)
            .join(DecisionRow, (DecisionRow.trial_id == TrialRow.id) & (DecisionRow.action == "stop"), isouter=True)
            .where(CandidateRow.search_id == search_id)
            .order_by(CandidateRow.position, TrialRow.id)
        )
        found: dict[int, tuple[CandidateRow, list[TrialRecord]]] = {}
        for row, trial_id, seed, stopped in rows:
            found.setdefault(row.id, (row, []))[1].append(TrialRecord(trial_id, seed, stopped))
        return [
            CandidateRecord(
                id=row.id,
                trials=tuple(trials),
                architecture=Architecture.model_validate(row.architecture),
                parameters=row.parameters,
                non_embedding_parameters=row.non_embedding_parameters,
            )
            for row, trials in found.values()
        ]
