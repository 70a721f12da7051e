"""A search whose teacher runs once: its answers come before the trials, and anew for new seeds and segments."""

from pathlib import Path

import pytest

from api.services.control import cancel
from api.services.extending import extend
from api.services.submission import enumerate_spec, submit
from api.store.database import Database
from nas.errors import SpecError
from nas.extension import Extension
from nas.jobs import CacheTeacher, Promotion, Trial
from nas.pool import Assignment, Update
from nas.views import SearchView
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.test_scheduler import NOW, database, run, scheduler
from tests.conftest import tiny_spec

__all__ = ["database"]  # The fixture.


@pytest.fixture
def cached(database: Database, teacher_folder: Path, text_file: Path) -> Database:
    """With a search of cached targets in the place of the one that is there."""
    cancel(database, "tiny", NOW)
    scheduler(database, InstantPool(succeed)).step()
    trial = tiny_spec(teacher_folder, text_file).trial.model_dump() | {"targets": "sampled", "targets_per_token": 30}
    spec = tiny_spec(teacher_folder, text_file, trial=trial, distillation={"hidden_states": [], "temperature": 2.0})
    submit(database, spec, NOW)
    return database


def test_the_teacher_is_asked_once_for_all_trials(cached: Database) -> None:
    seen, pool = run(cached, succeed)
    assert seen.state == "finished"
    specs = [assignment.spec for assignment in pool.submitted]
    kinds = ["prepare_data", "calibrate", "cache_teacher", *["trial"] * 4, "promotion", "export"]
    assert [spec.kind for spec in specs] == kinds
    (ask,) = [spec for spec in specs if isinstance(spec, CacheTeacher)]
    assert (ask.form, ask.per_token, ask.temperature, ask.seed) == ("sampled", 30, 2.0, 0)
    assert (ask.first_sequence, ask.num_sequences) == (0, 1280 // 32)
    assert ask.resources.dtype == "bfloat16", "as the calibration has decided for all"
    trials = [spec for spec in specs if isinstance(spec, Trial)]
    folder = next(each.folder for each in pool.submitted if isinstance(each.spec, CacheTeacher))
    assert {spec.answers.folder for spec in trials if spec.answers} == {f"{folder}/answers"}
    assert all(spec.answers is not None and spec.distillation.temperature == 2.0 for spec in trials)
    (promotion,) = [spec for spec in specs if isinstance(spec, Promotion)]
    assert promotion.distillation.temperature == 2.0


def extended(database: Database, extension: Extension) -> tuple[SearchView, InstantPool]:
    run(database, succeed)
    extend(database, "tiny", extension, NOW)
    return run(database, succeed)


def test_a_further_seed_sees_another_order_and_a_further_segment_other_tokens(cached: Database) -> None:
    seen, pool = extended(cached, Extension(seeds=1))
    assert seen.state == "finished"
    (ask,) = [each.spec for each in pool.submitted if isinstance(each.spec, CacheTeacher)]
    trials = [each.spec for each in pool.submitted if isinstance(each.spec, Trial)]
    assert {spec.seed for spec in trials} == {ask.seed}
    assert ask.seed != 0

    seen, pool = extended(cached, Extension(tokens=640))
    asks = [each.spec for each in pool.submitted if isinstance(each.spec, CacheTeacher)]
    assert {(each.seed, each.first_sequence, each.num_sequences) for each in asks} == {(0, 40, 20), (ask.seed, 40, 20)}
    for each in (each.spec for each in pool.submitted if isinstance(each.spec, Trial)):
        assert each.answers is not None
        assert (each.answers.first_sequence, each.continues is None) == (40, False)


def test_a_teacher_that_cannot_be_asked_ends_the_search_with_the_reason(cached: Database) -> None:
    def outcome(assignment: Assignment) -> Update:
        return fail(assignment, "the disk") if isinstance(assignment.spec, CacheTeacher) else succeed(assignment)

    seen, _ = run(cached, outcome)
    assert (seen.state, seen.reason) == ("failed", "the disk")


def test_candidates_that_learn_hidden_states_need_a_live_teacher(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    """Those of the spec, and those that are added later."""
    trial = tiny_spec(teacher_folder, text_file).trial.model_dump() | {"targets": "sampled"}
    changes = {"budget": {"parameters": 43_000, "tolerance": 0.9}, "space": {"num_hidden_layers": [3, 1]}}
    expected = (
        r"trial\.targets: sampled is for logits alone, but candidates of 1 of 3 layers learn hidden states too; "
        r"accepted: live, or distillation\.hidden_states \[\]\."
    )
    spec = tiny_spec(teacher_folder, text_file, name="deep", trial=trial, **changes)
    with pytest.raises(SpecError, match=expected):
        submit(database, spec, NOW)
    # Drawn by its seed, the first is of three layers.
    sampled = next(
        each
        for each in (spec.model_copy(update={"sample_size": 1, "seed": seed}) for seed in range(20))
        if enumerate_spec(each).candidates[0].architecture.num_hidden_layers == 3
    )
    submit(database, sampled, NOW)
    with pytest.raises(SpecError, match=expected):
        extend(database, "deep", Extension(candidates=1), NOW)


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [([[3, 0]], "layer 3 of a teacher of 3 layers"), ([[0, 0], [0, -2]], "layer -2 of a student of 1 layers")],
)
def test_a_layer_that_is_not_there_is_refused(
    pairs: list[list[int]], problem: str, database: Database, teacher_folder: Path, text_file: Path
) -> None:
    changes = {"budget": {"parameters": 43_000, "tolerance": 0.9}, "space": {"num_hidden_layers": [3, 1]}}
    spec = tiny_spec(teacher_folder, text_file, name="there", distillation={"hidden_layers": pairs}, **changes)
    with pytest.raises(SpecError, match=rf"distillation\.hidden_layers: .* has {problem}; accepted: -"):
        submit(database, spec, NOW)


@pytest.mark.parametrize(
    ("distillation", "problem"),
    [
        ({"hidden_states": ["embedding"]}, "has hidden_states embedding"),
        ({"logits": "reverse_kl"}, "has logits reverse_kl"),
        ({"top_k": 9}, "has top_k 9"),
    ],
)
def test_what_is_not_cached_is_refused(
    distillation: dict[str, object], problem: str, teacher_folder: Path, text_file: Path
) -> None:
    trial = tiny_spec(teacher_folder, text_file).trial.model_dump() | {"targets": "top_k"}
    with pytest.raises(SpecError, match=rf"distillation: .*{problem}, which needs trial\.targets live"):
        tiny_spec(teacher_folder, text_file, trial=trial, distillation=distillation)
