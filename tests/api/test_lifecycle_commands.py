"""The life of a search from the command line: what each command says happens next, and that it does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.cli import main
from nas.errors import ConflictError
from nas.pool import Assignment, Update
from nas.spec import SearchSpec
from nas.views import SearchView
from tests.api.instant_pool import fail
from tests.api.rest.answers import export
from tests.api.stepped import Stepped, stepped
from tests.conftest import tiny_spec

Say = Callable[..., str]


def the_first_trial_fails(assignment: Assignment) -> Update:
    """Once; tried again, it does not. Jobs before it are two."""
    return fail(assignment) if (assignment.job_id, assignment.attempt) == (3, 1) else export(assignment)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepped]:
    with stepped(tmp_path, the_first_trial_fails) as stage:
        monkeypatch.setenv("TOPIARY_URL", stage.service.url)
        yield stage


@pytest.fixture
def spec(teacher_folder: Path, text_file: Path) -> SearchSpec:
    return tiny_spec(teacher_folder, text_file, sample_size=2, max_failures=1)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """What a command prints, and exits with, if not with 0."""

    def said(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == code
        out, err = capsys.readouterr()
        return (out + err).strip()

    return said


def test_each_command_says_what_happens_next_and_it_does(stage: Stepped, spec: SearchSpec, say: Say) -> None:
    stage.client.submit(spec)
    assert say("pause", "tiny") == "tiny: pausing; nothing of it runs, and nothing is started"
    assert stage.finish("tiny").state == "paused"
    assert say("resume", "tiny") == "tiny: running; it goes on from its newest checkpoints"
    stage.hold("tiny", "trial")
    assert say("stop", "tiny") == "tiny: stopping; 2 running trials go on to their end, nothing new is started"
    assert say("pause", "tiny") == "tiny: pausing; 2 running trials save their state and end"
    stage.step()
    stage.let_go()
    assert stage.finish("tiny").state == "paused"
    assert say("cancel", "tiny") == "tiny: cancelling; nothing of it runs, and nothing is started"
    assert stage.finish("tiny").state == "cancelled"
    assert say("resume", "tiny") == "tiny: running; it goes on from its newest checkpoints"
    assert stage.finish("tiny").state == "finished"


def test_what_failed_is_tried_again_and_more_is_added(stage: Stepped, spec: SearchSpec, say: Say) -> None:
    stage.client.submit(spec)
    ended = stage.finish("tiny")
    assert [row.state for row in ended.leaderboard] == ["succeeded", "failed"]
    failed = str(ended.leaderboard[1].candidate_id)
    assert say("retry", "tiny", "--candidate", failed) == "tiny: running; what has failed is tried again"
    assert [row.state for row in stage.finish("tiny").leaderboard] == ["succeeded"] * 2
    assert say("extend", "tiny", "--seeds", "1", "--tokens", "1e3") == "tiny: running; it goes on with what was added"
    assert [(row.num_seeds, row.tokens) for row in stage.finish("tiny").leaderboard][:1] == [(2, 2304)]
    assert say("clone", "tiny", "copy", "--set", "seed=3", "trial.tokens=2560").startswith(
        "copy: running, 2 candidates; "
    )
    copied = stage.client.spec("copy")
    assert copied == spec.model_copy(
        update={"name": "copy", "seed": 3, "trial": spec.trial.model_copy(update={"tokens": 2560})}
    )


def test_limits_of_spending_are_changed_one_by_one(stage: Stepped, spec: SearchSpec, say: Say) -> None:
    limited = spec.model_dump() | {"spending": {"tokens": 2000, "device_hours": 9}}
    stage.client.submit(limited)
    told = say("watch", "tiny", code=1) if stage.finish("tiny").state == "stopped" else ""
    assert told.endswith(
        "topiary: the search is stopped: spending.tokens: 2,560 of 2,000 are used; `topiary extend tiny --spending "
        "tokens=MORE` allows more, then `topiary resume tiny` goes on"
    )
    assert "may not go on: spending.tokens: 2,560 of 2,000 are used" in say("resume", "tiny", code=2)
    assert say("extend", "tiny", "--spending", "tokens=1e6", "wall_hours=8") == (
        "tiny: stopped; with `topiary resume tiny` it goes on within tokens: 1e6, device_hours: 9.0, wall_hours: 8"
    )
    assert "the search is stopped: nothing of it runs; `topiary resume tiny`" in say("watch", "tiny", code=1)
    say("extend", "tiny", "--spending", "wall_hours=null")
    limits = stage.client.search("tiny").spending
    assert (limits.tokens, limits.device_hours, limits.wall_hours) == (1_000_000, 9, None)
    assert "spending.hours: 1 is not a field" in say("extend", "tiny", "--spending", "hours=1", code=2)
    say("resume", "tiny")
    assert stage.finish("tiny").state == "finished"
    assert json.loads(say("extend", "tiny", "--seeds", "1", "--json"))["extensions"][-1]["seeds"] == 1


def test_a_promotion_is_paused_and_its_search_says_that_it_waits(stage: Stepped, spec: SearchSpec, say: Say) -> None:
    stage.client.submit(spec)
    stage.hold("tiny", "promotion")
    assert say("pause", "tiny", "--promotion", "1") == "promotion 1 of tiny: it saves its state and ends"
    stage.step()
    stage.let_go()
    stage.step(2)
    assert say("pause", "tiny") == "tiny: pausing; nothing of it runs, and nothing is started"
    assert stage.finish("tiny").state == "paused"
    say("resume", "tiny")
    told = "it goes on for more tokens once it has done what it does now"
    assert say("extend", "tiny", "--promotion", "1", "--tokens", "100") == f"promotion 1 of tiny: {told}"
    assert say("resume", "tiny", "--promotion", "1") == "promotion 1 of tiny: it goes on from its newest checkpoint"
    assert stage.finish("tiny").promotions[0].curve[-1].tokens == 1408
    assert say("cancel", "tiny", "--promotion", "1", code=2).startswith("topiary: promotion: 1 is finished already; ")


def test_nothing_is_deleted_without_yes(stage: Stepped, spec: SearchSpec, say: Say, tmp_path: Path) -> None:
    stage.client.submit(spec)
    assert "It runs: only one that is paused, stopped or has ended can be deleted." in say("delete", "tiny", code=2)
    assert "is running" in say("delete", "tiny", "--yes", code=2)
    stage.finish("tiny")
    listing = say("delete", "tiny", code=2)
    assert listing.endswith("\ntopiary: nothing is deleted without --yes")
    held = [file.stat().st_size for file in (tmp_path / "jobs").rglob("*") if file.is_file()]
    assert f"\nfolders         6, {sum(held) / 1e6:.2f} MB\n" in listing
    (model,) = stage.client.models("tiny")
    assert model.folder in listing
    told = json.loads(say("delete", "tiny", "--json", code=2).splitlines()[0])
    assert (told["deleted"], told["bytes"], len(told["folders"])) == (False, sum(held), told["attempts"])
    assert Path(model.folder).exists()
    assert say("delete", "tiny", "--yes") == "tiny: deleted"
    assert list((tmp_path / "jobs").iterdir()) == []
    assert say("delete", "tiny", "--yes", code=2).startswith("topiary: search: tiny is not there; ")


def test_archived_searches_are_listed_apart(stage: Stepped, spec: SearchSpec, say: Say) -> None:
    stage.client.submit(spec)
    stage.finish("tiny")
    assert say("archive", "tiny") == "tiny: archived; `topiary searches --archived` lists it"
    assert say("searches") == "no searches yet; `topiary submit SPEC` begins one"
    assert [row["name"] for row in json.loads(say("searches", "--archived", "--json"))] == ["tiny"]
    assert say("unarchive", "tiny") == "tiny: finished; `topiary searches` lists it again"
    assert [row["name"] for row in json.loads(say("searches", "--json"))] == ["tiny"]


MISTAKES = [
    (
        ("clone", "tiny", "copy", "--set", "seed"),
        "--set: seed is no field with a value; accepted: FIELD=VALUE, such as",
    ),
    (("clone", "tiny", "copy", "--set", ".a=1"), "--set: .a=1 is no field with a value; accepted: FIELD=VALUE"),
    (
        ("clone", "tiny", "copy", "--set", "seed=1", "seed.a=2"),
        "--set: seed.a=2 is within seed, which is given a value",
    ),
    (("clone", "tiny", "copy", "--set", "seed=["), "--set: seed=[ is not YAML (while parsing a flow node"),
    (("extend", "tiny", "--promotion", "1", "--seeds", "2"), "--promotion: 1 is extended by tokens alone; accepted:"),
    (("retry", "tiny", "--promotion", "1", "--candidate", "2"), "--candidate: 2 goes with no --promotion; accepted:"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistaken_option_is_told_before_anything_is_asked(
    arguments: tuple[str, ...], sentence: str, say: Say
) -> None:
    assert say(*arguments, "--server", "http://127.0.0.1:9", code=2).startswith(f"topiary: {sentence}")


def test_watching_ends_when_the_search_waits_for_its_user(stage: Stepped, spec: SearchSpec) -> None:
    stage.client.submit(spec)
    stage.client.pause("tiny")
    views: list[SearchView] = []
    for view in stage.client.watch("tiny"):
        views.append(view)
        stage.step()
    assert [view.state for view in views] == ["running", "paused"]
    assert [view.state for view in stage.client.watch("tiny")] == ["paused"]
    with pytest.raises(ConflictError):
        stage.client.archive(stage.client.clone("tiny", "copy").name)
