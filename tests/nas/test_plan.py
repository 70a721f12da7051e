"""Plans against sums written out by hand, and against what others have published."""

from pathlib import Path
from typing import Any

import pytest

from api.services.planning import plan_search
from nas.architecture import Architecture
from nas.errors import SettingError, SpecError
from nas.plan import RACING_SHARE, PlanView, StrategyPlan, Throughput, plan
from nas.spec import SearchSpec
from nas.spec_file import parse_spec, read_spec
from nas.strategy_spec import StrategyKind
from nas.training_cost import flops_per_token
from tests.nas.shapes import LLAMA_8B

EXAMPLES = Path(__file__).parents[2] / "examples"
STEP = 1152 * 4096
STUDENT = LLAMA_8B.resized(hidden_size=3072, intermediate_size=9216)
BIG = {"memory_bytes": 1e12, "flops_per_second": 1e14}


def spec(**changes: Any) -> SearchSpec:
    content = {
        "name": "planned",
        "teacher": "/teacher",
        "budget": {"parameters": 4e9, "tolerance": 0.5},
        "data": {"train": "text", "sequence_length": 4096},
        "hardware": BIG,
        "promotion": {"winners": 0},
        **changes,
    }
    return parse_spec(content, relative_to=Path("/"))


def shapes(number: int) -> list[Architecture]:
    """All alike, so that sums are products."""
    return [STUDENT] * number


def planned(number: int, **changes: Any) -> PlanView:
    return plan(spec(**changes), LLAMA_8B, shapes(number))


def of(found: PlanView, kind: StrategyKind) -> StrategyPlan:
    return next(each for each in found.strategies if each.kind == kind)


# --- tokens -------------------------------------------------------------------------------------------------


def test_the_papers_15_candidates_take_28_billion_tokens() -> None:
    found = plan_search(read_spec(EXAMPLES / "nemotron-4-15b" / "8b-table-19.yaml"))
    assert found.num_candidates == 15
    assert [each.kind for each in found.strategies] == ["exhaustive", "halving", "racing", "tpe"]
    assert [each.kind for each in found.strategies if each.is_chosen] == [found.chosen.kind] == ["racing"]
    for kind in ("exhaustive", "tpe"):
        assert of(found, kind).expected.tokens == of(found, kind).fewest.tokens == 15 * 400 * STEP == 28_311_552_000
    # Rungs behind 100, 150, 200 and 300 of 400 steps.
    halving = of(found, "halving")
    assert [(each.until_tokens, each.candidates) for each in halving.stretches] == [
        (100 * STEP, 15),
        (150 * STEP, 8),
        (200 * STEP, 4),
        (300 * STEP, 2),
        (400 * STEP, 1),
    ]
    assert halving.fewest == halving.expected == halving.most
    assert halving.expected.tokens == (15 * 100 + 8 * 50 + 4 * 50 + 2 * 100 + 1 * 100) * STEP
    assert halving.share == 0.4
    racing = of(found, "racing")
    assert racing.fewest.tokens == (15 * 100 + 1 * 300) * STEP
    assert racing.most.tokens == 15 * 400 * STEP
    assert racing.fewest.tokens < racing.expected.tokens < racing.most.tokens
    (promotion,) = found.beside
    assert promotion.outlay.tokens == 19_922 * STEP  # 94 billion, completed to whole steps.
    assert racing.in_all.tokens == racing.expected.tokens + 19_922 * STEP


def test_racing_is_expected_to_take_what_was_measured_of_24() -> None:
    assert of(planned(24), "racing").share == pytest.approx(RACING_SHARE)


@pytest.mark.parametrize("changes", [{"strategy": {"rungs": []}}, {"trial": {"tokens": 1}}])
def test_without_rungs_all_strategies_are_exhaustive(changes: dict[str, Any]) -> None:
    found = planned(5, **changes)
    assert len({each.expected.tokens for each in found.strategies}) == 1


def test_a_single_candidate_goes_to_the_end() -> None:
    assert {each.expected.tokens for each in planned(1).strategies} == {400 * STEP}


# --- hours, devices, money ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "throughput", "hours"),
    [
        # NVIDIA distils 9B to 7B in 600 H100-hours per 6.3 B tokens, 180 a trial, and 8B to 6B in 3,000 per 50 B, 113.
        # With six FLOPs for each parameter of the student and two of the teacher, that is 175 and 240 TFLOP/s.
        ("qwen3-8b/6b.yaml", 1.75e14, (110, 170)),
        ("qwen3-8b/6b.yaml", 2.4e14, (85, 130)),
        ("llama-3.1-8b/width-4b.yaml", 1.75e14, (110, 170)),
    ],
)
def test_a_trial_of_8_billion_takes_what_was_published(
    example: str, throughput: float, hours: tuple[float, float]
) -> None:
    given = read_spec(EXAMPLES / example)
    hardware = given.hardware.model_copy(update={"flops_per_second": throughput})
    found = plan_search(given.model_copy(update={"hardware": hardware}))
    assert hours[0] < found.trial_device_hours < hours[1]


def test_hours_are_the_flops_of_all_trials_and_money_their_price() -> None:
    found = planned(10, hardware={**BIG, "price_per_hour": 2.5})
    hours = flops_per_token(STUDENT, LLAMA_8B, 4096) * 400 * STEP / 1e14 / 3600
    assert found.trial_device_hours == pytest.approx(hours)
    exhaustive = of(found, "exhaustive").expected
    assert exhaustive.device_hours == pytest.approx(10 * hours)
    assert exhaustive.money == pytest.approx(25 * hours)
    assert of(found, "halving").expected.device_hours == pytest.approx(hours * (250 + 5 * 12.5 + 37.5 + 50 + 25) / 100)
    assert of(planned(10), "exhaustive").expected.money is None


def test_measured_throughput_goes_before_the_specs() -> None:
    measured = Throughput(flops_per_second=2e13, throughput_from="measured", num_runs=7)
    slow = plan(spec(), LLAMA_8B, shapes(3), throughput=measured)
    assert (slow.flops_per_second, slow.throughput_from, slow.num_runs) == (2e13, "measured", 7)
    assert slow.trial_device_hours == pytest.approx(5 * planned(3).trial_device_hours)
    assert (planned(3).flops_per_second, planned(3).throughput_from) == (1e14, "spec")


def test_trials_run_in_rounds_where_devices_are_fewer() -> None:
    all_at_once = planned(10)
    assert (all_at_once.devices, all_at_once.devices_needed, all_at_once.devices_of_a_job) == (10, 10, 1)
    hours = all_at_once.trial_device_hours
    walls = {each.kind: round(each.expected.wall_hours / hours, 9) for each in all_at_once.strategies}
    assert walls == {"exhaustive": 1.0, "halving": 1.0, "racing": 1.0, "tpe": 2.0}
    found = plan(spec(), LLAMA_8B, shapes(10), devices=4)
    assert (found.devices, found.devices_needed) == (4, 10)
    assert of(found, "exhaustive").expected.wall_hours == pytest.approx(3 * hours)
    # 10, 5, 3, 2 and 1 candidates: three rounds, two, and one from then on.
    assert of(found, "halving").expected.wall_hours == pytest.approx(hours * (3 * 0.25 + 2 * 0.125 + 0.625))
    assert of(found, "racing").fewest.wall_hours == pytest.approx(hours * (3 * 0.25 + 0.75))


def test_a_job_that_no_single_device_holds_takes_several() -> None:
    """The paper's own models need several of 80 GB: float32 weights of both, gradient and optimizer."""
    small = plan(spec(hardware={"memory_bytes": 100e9}), LLAMA_8B, shapes(2))
    assert small.devices_of_a_job > 1
    assert small.devices_needed == 2 * small.devices_of_a_job
    assert of(small, "exhaustive").expected.wall_hours == pytest.approx(
        small.trial_device_hours / small.devices_of_a_job
    )
    just = plan(spec(hardware={"memory_bytes": small.memory_bytes_alone}), LLAMA_8B, shapes(2))
    assert just.devices_of_a_job == 1
    less = plan(spec(hardware={"memory_bytes": 0.99 * small.memory_bytes_alone}), LLAMA_8B, shapes(2))
    assert less.devices_of_a_job == 2
    with pytest.raises(SettingError, match=r"^devices: 1 hold no job that takes \d; accepted: \d or more\.$"):
        plan(spec(hardware={"memory_bytes": 100e9}), LLAMA_8B, shapes(2), devices=1)


# --- beside the trials --------------------------------------------------------------------------------------


def test_what_comes_beside_the_trials_is_counted() -> None:
    found = plan(
        spec(
            correction={"tokens": 100 * STEP},
            trial={"targets": "sampled", "learning_rates": [1e-4, 2e-4, 4e-4]},
            promotion={"tokens": 1000 * STEP, "winners": 2},
        ),
        LLAMA_8B,
        shapes(4),
        devices=1,
    )
    student = flops_per_token(STUDENT, None, 4096) / 1e14 / 3600
    teacher = flops_per_token(LLAMA_8B, None, 4096) / 1e14 / 3600  # Forward and backward pass.
    hours = {
        "correction": 100 * STEP * teacher,
        "teacher_answers": 400 * STEP * teacher / 3,
        "sweep": 3 * 400 * STEP * student,
        "promotion": 2 * 1000 * STEP * (student + teacher / 3),
    }
    assert {each.kind: each.outlay.device_hours for each in found.beside} == pytest.approx(hours)
    assert [each.outlay.tokens // STEP for each in found.beside] == [100, 400, 1200, 2000]
    assert all(each.outlay.wall_hours == pytest.approx(each.outlay.device_hours) for each in found.beside)
    exhaustive = of(found, "exhaustive")
    assert exhaustive.expected.device_hours == pytest.approx(4 * 400 * STEP * student)
    assert exhaustive.in_all.device_hours == pytest.approx(4 * 400 * STEP * student + sum(hours.values()))
    assert exhaustive.in_all.wall_hours == pytest.approx(exhaustive.in_all.device_hours)


# --- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [1e9, 24e9])
def test_a_search_that_no_device_can_hold_is_refused(memory: float) -> None:
    """One gigabyte holds no micro-batch; 24 hold one, and too little of the weights beside it."""
    with pytest.raises(SpecError) as caught:
        plan(spec(hardware={"memory_bytes": memory}), LLAMA_8B, [LLAMA_8B, STUDENT])
    error = caught.value
    assert (error.field, error.value) == ("hardware.memory_bytes", f"{memory:,.0f}")
    assert f"hold no trial of even the smallest candidate, {STUDENT.label}, on 8 devices of a node" in str(error)
    needed = int(error.accepted.split()[0].replace(",", ""))
    assert plan(spec(hardware={"memory_bytes": needed}), LLAMA_8B, shapes(1)).devices_of_a_job == 1


def test_candidates_that_are_too_large_are_told() -> None:
    hardware = {"memory_bytes": 60e9}
    alone = plan(spec(hardware=hardware), LLAMA_8B, shapes(1))
    assert alone.num_too_large == 0
    found = plan(spec(hardware=hardware), LLAMA_8B, [LLAMA_8B, STUDENT])
    assert found.num_too_large == 1


# --- what a strategy has to leave, and has to wait for -------------------------------------------------------


def test_as_many_as_are_promoted_come_to_the_end() -> None:
    """By halves of 10: 10, 5, 3, 3, 3 and not 1; of a race, three and not one at least."""
    found = planned(10, promotion={"tokens": 1000 * STEP, "winners": 3})
    assert [each.candidates for each in of(found, "halving").stretches] == [10, 5, 3, 3, 3]
    assert of(found, "racing").fewest.tokens == (10 * 100 + 3 * 300) * STEP


def test_nobody_leaves_a_race_before_there_are_two_measurements() -> None:
    """With one at the end only, the rung at a quarter is the first of all, and that at three eighths the second."""
    trial = {**spec().trial.model_dump(), "measurements": 1}
    assert of(planned(10, trial=trial), "racing").fewest.tokens == (10 * 150 + 1 * 250) * STEP


def test_batches_of_tpe_wait_for_each_other() -> None:
    """Of 14, 8 are drawn, then 4 and 2 proposed: three times as long as all at once, for the same tokens."""
    found = planned(14)
    assert of(found, "tpe").expected.tokens == of(found, "exhaustive").expected.tokens
    ratio = of(found, "tpe").expected.wall_hours / of(found, "exhaustive").expected.wall_hours
    assert ratio == pytest.approx(3)
