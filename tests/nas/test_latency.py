"""Tables of measured latency: which blocks a model has, sums by hand, and files that are damaged or of another kind."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from pydantic import TypeAdapter

from nas.architecture import Architecture
from nas.errors import SpecError
from nas.jobs import JobResult, JobSpec, Latency, LatencyMeasured
from nas.latency import (
    BlockShape,
    BlockTiming,
    Check,
    LatencyTable,
    MeasuredOn,
    OutsideTiming,
    PhaseTable,
    Timing,
    blocks_of,
    read_table,
    write_table,
)
from nas.spec import ResourcesSpec
from tests.nas.shapes import llamas, small_llama

WINDOWED = small_llama(family="gemma2", num_hidden_layers=6, num_sliding_layers=4, sliding_window=8)


def timing(milliseconds: float) -> Timing:
    return Timing(median=milliseconds, lower_quartile=milliseconds, upper_quartile=milliseconds, repetitions=12)


def phase_table(*, outside: dict[int, float], blocks: dict[BlockShape, float]) -> PhaseTable:
    return PhaseTable(
        outside=tuple(OutsideTiming(hidden_size=size, timing=timing(ms)) for size, ms in outside.items()),
        blocks=tuple(BlockTiming(block=block, timing=timing(ms)) for block, ms in blocks.items()),
    )


def block(*, hidden_size: int = 24, intermediate_size: int = 14, sliding: bool = False) -> BlockShape:
    return BlockShape(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_attention_heads=6,
        num_key_value_heads=2,
        sliding=sliding,
    )


def table_of(teacher: Architecture, prefill: PhaseTable, decode: PhaseTable | None = None) -> LatencyTable:
    on = MeasuredOn(
        device="abacus",
        dtype="float32",
        threads=1,
        torch="2",
        transformers="5",
        at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    return LatencyTable(teacher=teacher, measured_on=on, batch_size=2, context=16, prefill=prefill, decode=decode)


@pytest.fixture
def table() -> LatencyTable:
    """A prefill of 100 ms outside and 10 ms for each block at hidden size 24; of 50 and 3 ms at 12."""
    prefill = phase_table(outside={24: 100, 12: 50}, blocks={block(): 10, block(hidden_size=12): 3})
    return table_of(small_llama(), prefill)


# --- blocks -------------------------------------------------------------------------------------------------


def test_a_model_of_equal_layers_has_one_block_as_often_as_it_has_layers() -> None:
    assert blocks_of(small_llama(num_hidden_layers=7)) == {block(): 7}


def test_layers_that_slide_and_layers_that_do_not_are_two_blocks() -> None:
    assert blocks_of(WINDOWED) == {block(): 2, block(sliding=True): 4}
    assert blocks_of(small_llama(num_sliding_layers=3, sliding_window=8)) == {block(sliding=True): 3}


def test_experts_are_part_of_a_block() -> None:
    shape = small_llama(family="mixtral", num_experts=4, num_experts_per_tok=2)
    assert [each.num_experts for each in blocks_of(shape)] == [4]
    assert blocks_of(shape) != blocks_of(shape.resized(num_experts=3))


@given(llamas())
def test_blocks_are_as_many_as_layers(architecture: Architecture) -> None:
    assert sum(blocks_of(architecture).values()) == architecture.num_hidden_layers


# --- sums ---------------------------------------------------------------------------------------------------


def test_a_model_takes_what_is_outside_and_every_block(table: LatencyTable) -> None:
    assert table.milliseconds(small_llama(num_hidden_layers=3), "prefill") == 100 + 3 * 10
    assert table.milliseconds(small_llama(num_hidden_layers=1, hidden_size=12), "prefill") == 50 + 3


def test_sliding_and_full_layers_are_summed_apart() -> None:
    prefill = phase_table(outside={24: 100}, blocks={block(): 10, block(sliding=True): 4})
    decode = phase_table(outside={24: 8}, blocks={block(): 2, block(sliding=True): 1})
    table = table_of(WINDOWED, prefill, decode)
    assert table.phases == ("prefill", "decode")
    assert table.milliseconds(WINDOWED, "prefill") == 100 + 2 * 10 + 4 * 4
    assert table.milliseconds(WINDOWED, "decode") == 8 + 2 * 2 + 4 * 1
    assert table.milliseconds(WINDOWED.resized(num_hidden_layers=3), "prefill") == 100 + 1 * 10 + 2 * 4


@pytest.mark.parametrize(
    "changes", [{"intermediate_size": 13}, {"hidden_size": 18}, {"num_attention_heads": 4}], ids=lambda each: str(*each)
)
def test_a_block_that_was_not_measured_has_no_time(table: LatencyTable, changes: dict[str, int]) -> None:
    shape = small_llama().resized(**changes)
    sentence = (
        r"^budget.latency.table: the table of 2026-11-22 has no time for the block .+; accepted: one measured for"
    )
    with pytest.raises(SpecError, match=sentence):
        table.milliseconds(shape, "prefill")
    assert not table.covers([small_llama(), shape])
    assert table.covers([small_llama(), small_llama(hidden_size=12, num_hidden_layers=9)])


def test_a_phase_that_was_not_measured_has_no_times(table: LatencyTable) -> None:
    sentence = "^budget.latency.phase: decode was not measured for this table; accepted: prefill.$"
    with pytest.raises(SpecError, match=sentence):
        table.milliseconds(small_llama(), "decode")
    assert table.checks("decode") == ()


def test_times_of_one_teacher_are_not_taken_for_anothers(table: LatencyTable) -> None:
    """The head's time follows the vocabulary, which no candidate differs in."""
    with pytest.raises(SpecError, match=r"was measured for models with vocab_size 11, not 12; accepted: one measured"):
        table.milliseconds(small_llama(vocab_size=12), "prefill")


# --- files --------------------------------------------------------------------------------------------------


def test_a_table_survives_its_file(table: LatencyTable, tmp_path: Path) -> None:
    check = Check(
        architecture=small_llama(), predicted_milliseconds=130, measured=timing(143), ratio=1.1, layers_left_out=2
    )
    assert table.prefill is not None
    checked = table.model_copy(update={"prefill": table.prefill.model_copy(update={"checks": (check,)})})
    write_table(tmp_path / "table.json", checked)
    read = read_table(tmp_path / "table.json", "llama")
    assert read == checked
    assert read.checks("prefill") == (check,)
    assert read.milliseconds(small_llama(), "prefill") == checked.milliseconds(small_llama(), "prefill")
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def without_blocks(content: dict[str, Any]) -> None:
    del content["prefill"]["blocks"]


def newer(content: dict[str, Any]) -> None:
    content["format"] = 2


def slower_than_never(content: dict[str, Any]) -> None:
    content["prefill"]["blocks"][0]["timing"]["median"] = -1


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a part is missing": (without_blocks, "prefill.blocks: Field required"),
    "another format": (newer, "format: Input should be 1"),
    "an impossible time": (slower_than_never, "prefill.blocks.0.timing.median: Input should be greater than or equal"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_table_is_refused_in_a_sentence(case: str, table: LatencyTable, tmp_path: Path) -> None:
    damage, found = DAMAGES[case]
    content = json.loads(table.model_dump_json())
    damage(content)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SpecError) as raised:
        read_table(path)
    assert str(raised.value).startswith(f"budget.latency.table: {path} is no table of measured latency ({found}")
    assert str(raised.value).endswith("; accepted: a file that topiary latency wrote.")


def test_what_is_no_table_at_all_is_refused_in_a_sentence(table: LatencyTable, tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", table)
    cut = tmp_path / "cut.json"
    cut.write_text((tmp_path / "table.json").read_text()[:-40])
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for path, problem in (
        (cut, "is no table of measured latency (Invalid JSON"),
        (tmp_path / "bytes.json", "cannot be read (it is not UTF-8)"),
        (tmp_path / "none.json", "does not exist; accepted: a file that topiary latency wrote."),
        (tmp_path, "cannot be read (Is a directory)"),
    ):
        with pytest.raises(SpecError) as raised:
            read_table(path)
        assert str(raised.value).startswith(f"budget.latency.table: {path} {problem}")


def test_a_table_of_another_family_is_refused(table: LatencyTable, tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", table)
    with pytest.raises(SpecError, match="was measured for a llama, not for a gemma2; accepted: a table of the teacher"):
        read_table(tmp_path / "table.json", "gemma2")


# --- the job ------------------------------------------------------------------------------------------------


def test_the_job_and_its_result_survive_json_as_their_own_kind() -> None:
    spec = Latency(
        teacher="t",
        blocks=tuple(blocks_of(WINDOWED)),
        checks=(WINDOWED,),
        phases=("prefill", "decode"),
        batch_size=2,
        context=16,
        dtype="bfloat16",
        seconds=0.5,
        resources=ResourcesSpec(cpus=2),
    )
    specs: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
    results: TypeAdapter[JobResult] = TypeAdapter(JobResult)
    assert specs.validate_json(specs.dump_json(spec)) == spec
    assert results.validate_json(results.dump_json(LatencyMeasured(table="f"))) == LatencyMeasured(table="f")
