"""`topiary export-study`: a search as an Optuna study in a SQLite file, which optuna-dashboard opens."""

import argparse
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.client_commands import connected
from api.exit_codes import SUCCESS
from api.one_job import new_place
from nas.architecture import AXES
from nas.durable import beside
from nas.errors import FolderError
from nas.pareto import comparable
from nas.states import SearchState, TrialState
from nas.varied_axes import size_steps, varied_axes
from nas.views import CandidateDetails, SearchView

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def export_study(parsed: argparse.Namespace) -> int:
    into = new_place("--into", parsed.into, "file")
    with connected(parsed) as client:
        view = client.search(parsed.search)
        # In the order of enumeration, so that trials keep their numbers while ranks change.
        ids = sorted(row.candidate_id for row in view.leaderboard)
        details = [client.candidate(parsed.search, candidate_id) for candidate_id in ids]
    write_study(into, view, details)
    print(json.dumps({"study": view.name, "storage": storage_url(into)}) if parsed.json else storage_url(into))
    return SUCCESS


def storage_url(file: Path) -> str:
    """The address of a SQLite file, as Optuna and optuna-dashboard take it."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def write_study(into: Path, view: SearchView, details: Sequence[CandidateDetails]) -> None:
    """Writes a search as a study of its name, with a trial for each candidate, to a file that appears whole.

    Axes that vary are its parameters. The same search makes the same study. Raises FolderError for a file that cannot
    be written.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # It would announce the study.
    try:
        with beside(into) as partial:
            storage = optuna.storages.RDBStorage(storage_url(partial))
            try:
                study = optuna.create_study(storage=storage, study_name=view.name, direction="minimize")
                for name, value in _of_study(view, details).items():
                    study.set_user_attr(name, value)
                study.add_trials(_trials(view, details))
            finally:
                storage.remove_session()
                storage.engine.dispose()
    except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise FolderError("--into", str(into), f"cannot be written ({error})", "a file in another folder") from error


def _of_study(view: SearchView, details: Sequence[CandidateDetails]) -> dict[str, Any]:
    shapes = [each.standing.architecture for each in details]
    return {
        "search": view.name,
        "state": view.state.value,
        "value": "validation loss in nats per token",
        "teacher": view.teacher.label,
        "teacher_loss": view.teacher_loss,
        "fixed": {axis: getattr(shapes[0], axis) for axis in AXES if len({getattr(s, axis) for s in shapes}) == 1},
    }


def _trials(view: SearchView, details: Sequence[CandidateDetails]) -> "list[FrozenTrial]":
    from optuna.distributions import BaseDistribution, IntDistribution
    from optuna.trial import FrozenTrial
    from optuna.trial import TrialState as OptunaState

    shapes = [each.standing.architecture for each in details]
    axes = varied_axes(shapes)
    sizes = {axis: [getattr(shape, axis) for shape in shapes] for axis in axes}
    distributions: dict[str, BaseDistribution] = {
        axis: IntDistribution(min(own), max(own), step=size_steps(own)) for axis, own in sizes.items()
    }
    compare = {row.candidate_id for row in comparable([each.standing for each in details])}
    found = []
    for number, each in enumerate(details):
        state = OptunaState[_state(each, view.state, compares=each.standing.candidate_id in compare)]
        started, ended = _times(each, view.created_at)
        found.append(
            FrozenTrial(
                number=number,
                trial_id=number,
                state=state,
                value=each.standing.loss if state is OptunaState.COMPLETE else None,
                datetime_start=None if state is OptunaState.WAITING else started,
                datetime_complete=ended if state.is_finished() else None,
                params={axis: own[number] for axis, own in sizes.items()},
                distributions=distributions,
                user_attrs=_attributes(each),
                system_attrs={},
                intermediate_values={point.tokens: point.loss for point in each.curve if math.isfinite(point.loss)},
            )
        )
    return found


def _state(details: CandidateDetails, search: SearchState, *, compares: bool) -> str:
    """The name of Optuna's state: one that ended with fewer tokens than others is pruned, and has no value."""
    row = details.standing
    match row.state:
        case TrialState.FAILED:
            return "FAIL"
        case TrialState.SUCCEEDED:
            return "COMPLETE" if compares else "PRUNED"
        case TrialState.STOPPED:
            # While a search runs, those that go on are where the others were stopped.
            return "COMPLETE" if compares and search is SearchState.FINISHED else "PRUNED"
        case TrialState.CANCELLED:
            return "PRUNED" if details.curve else "FAIL"
        case _:
            return "RUNNING" if details.curve or row.state is TrialState.RUNNING else "WAITING"


def _times(details: CandidateDetails, otherwise: datetime) -> tuple[datetime, datetime]:
    """When its first trial began and its last one ended, in UTC, which Optuna keeps without saying so."""
    own = [each for each in details.attempts if each.kind == "trial"]
    started = min((each.started_at for each in own), default=otherwise)
    ended = max((each.ended_at for each in own if each.ended_at is not None), default=started)
    return _naive(started), _naive(ended)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _attributes(details: CandidateDetails) -> dict[str, Any]:
    row = details.standing
    told = {
        "candidate_id": row.candidate_id,
        "shape": row.architecture.label,
        "parameters": row.parameters,
        "non_embedding_parameters": row.non_embedding_parameters,
        "state": row.state.value,
        "reason": row.reason,
        "rank": row.rank,
        "tokens": row.tokens,
        "num_seeds": row.num_seeds,
    }
    return {name: value for name, value in told.items() if value is not None}
