"""A search as an Optuna study: every candidate a trial, the best value the leaderboard's."""

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from api.cli import main
from api.services.submission import submit
from api.services.viewing import candidate, view
from api.study_command import storage_url, write_study
from nas.jobs import Trial
from nas.pool import Assignment, Update
from nas.states import SearchState, TrialState
from tests.api.instant_pool import fail, succeed
from tests.api.serving import serving
from tests.api.test_pages import NOW
from tests.conftest import tiny_spec
from tests.nas.test_figures import LOSSES, details, search


def one_fails(assignment: Assignment) -> Update:
    spec = assignment.spec
    return fail(assignment) if isinstance(spec, Trial) and spec.architecture.axes[0] == 3 else succeed(assignment)


def loaded(file: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage_url(file))


def dump(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    lines = list(connection.iterdump())
    connection.close()
    return lines


def test_a_study_holds_what_the_leaderboard_and_the_candidates_say(
    tmp_path: Path, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "service").mkdir()
    # Characters that mean something in an address.
    file, again = tmp_path / "a study?50%#.db", tmp_path / "again.db"
    with serving(tmp_path / "service", one_fails) as service:
        submit(service.database, tiny_spec(teacher_folder, text_file, max_failures=1), NOW)
        service.finish()
        for into in (file, again):
            assert main(["export-study", "tiny", "--into", str(into), "--server", service.url]) == 0
        assert capsys.readouterr().out.split("\n")[0] == storage_url(file)
        assert main(["export-study", "tiny", "--into", str(file), "--server", service.url]) == 2
        assert "exists already" in capsys.readouterr().err
        with service.database.reading() as session:
            rows = {row.candidate_id: row for row in view(session, "tiny").leaderboard}
            curves = {id_: candidate(session, "tiny", id_).curve for id_ in rows}
    study = loaded(file, "tiny")
    best = next(iter(rows.values()))
    assert (study.best_value, study.best_trial.user_attrs["candidate_id"]) == (best.loss, best.candidate_id)
    assert study.direction is optuna.study.StudyDirection.MINIMIZE
    assert [trial.user_attrs["candidate_id"] for trial in study.trials] == sorted(rows)
    states = {TrialState.SUCCEEDED: OptunaState.COMPLETE, TrialState.FAILED: OptunaState.FAIL}
    assert {trial.state for trial in study.trials} == set(states.values())
    for trial in study.trials:
        row = rows[trial.user_attrs["candidate_id"]]
        assert (trial.state, trial.user_attrs["parameters"]) == (states[row.state], row.parameters)
        assert trial.intermediate_values == {point.tokens: point.loss for point in curves[row.candidate_id]}
        assert trial.params and all(getattr(row.architecture, axis) == size for axis, size in trial.params.items())
        fixed = study.user_attrs["fixed"]
        assert {getattr(row.architecture, axis) == size for axis, size in fixed.items()} == {True}
    assert dump(file) == dump(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a study?50%#.db", "again.db", "service"]


@pytest.mark.parametrize("state", [SearchState.RUNNING, SearchState.FINISHED])
def test_states_are_those_that_optuna_knows(state: SearchState, tmp_path: Path) -> None:
    given = {4: "succeeded", 5: "succeeded", 6: "running", 7: "stopped", 8: "cancelled", 9: "waiting"}
    seen = search({**LOSSES, 10: {0: 4.0, 20: 3.0}}, state=state)
    found = [details(seen, id_, LOSSES[id_]) for id_ in given] + [details(seen, 10, {0: 4.0, 20: 3.0})]
    told = [
        each.model_copy(update={"standing": each.standing.model_copy(update={"state": TrialState(its)})})
        for each, its in zip(found, [*given.values(), "stopped"], strict=True)
    ]
    write_study(tmp_path / "study.db", seen, told)
    study = loaded(tmp_path / "study.db", seen.name)
    # 7 was stopped with fewer tokens, 10 where the others ended: once nothing goes on, their losses compare.
    last = "COMPLETE" if state is SearchState.FINISHED else "PRUNED"
    assert [trial.state.name for trial in study.trials] == [
        *("COMPLETE", "COMPLETE", "RUNNING", "PRUNED", "PRUNED", "WAITING"),
        last,
    ]
    assert study.best_value == min(LOSSES[id_][20] for id_ in (4, 5))
    assert [trial.value is None for trial in study.trials] == [s.state.name != "COMPLETE" for s in study.trials]
