"""The specs for real teachers, against plain loops over their spaces and parameters counted by hand."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.services.submission import enumerate_spec
from nas.architecture import AXES
from nas.cost import cost
from nas.families import family_named
from nas.spec_file import read_spec
from nas.training_spec import TrialSpec
from nas.views import EnumerationView

EXAMPLES = Path(__file__).parents[2] / "examples"

HEAD_DIM, GROUPS = 128, 8
"""The same for all four teachers; key-value groups are never cut."""

Shape = tuple[int, int, int, int]
"""Layers, hidden size, MLP size, heads."""


# --- parameters by hand -----------------------------------------------------------------------------------------


def nemotron_4(layers: int, hidden: int, ffn: int, heads: int) -> int:
    """Two matrices per MLP, LayerNorms with biases, embedding and head apart."""
    attention = 2 * hidden * heads * HEAD_DIM + 2 * hidden * GROUPS * HEAD_DIM
    return layers * (attention + 2 * hidden * ffn + 4 * hidden) + 2 * 256_000 * hidden + 2 * hidden


def gated(vocabulary: int, layers: int, hidden: int, ffn: int, heads: int) -> int:
    """Three matrices per MLP, RMSNorms, embedding and head apart."""
    attention = 2 * hidden * heads * HEAD_DIM + 2 * hidden * GROUPS * HEAD_DIM
    return layers * (attention + 3 * hidden * ffn + 2 * hidden) + 2 * vocabulary * hidden + hidden


def llama_3_1(layers: int, hidden: int, ffn: int, heads: int) -> int:
    return gated(128_256, layers, hidden, ffn, heads)


def mistral_nemo(layers: int, hidden: int, ffn: int, heads: int) -> int:
    return gated(131_072, layers, hidden, ffn, heads)


def qwen_3(layers: int, hidden: int, ffn: int, heads: int) -> int:
    """With a norm on each head's query and key, one of each per layer."""
    return gated(151_936, layers, hidden, ffn, heads) + layers * 2 * HEAD_DIM


# --- spaces by hand, every axis descending ----------------------------------------------------------------------


def minitron_space(hidden_sizes: tuple[int, ...], head_counts: tuple[int, ...]) -> list[Shape]:
    """Table 12 of the paper: the MLP is 4, 3.5, 3 or 2.5 times as wide as the hidden size."""
    shapes = []
    for layers in (32, 31, 30, 29):
        for hidden in hidden_sizes:
            for ffn in (hidden * 4, hidden * 7 // 2, hidden * 3, hidden * 5 // 2):
                for heads in head_counts:
                    shapes.append((layers, hidden, ffn, heads))
    return shapes


def llama_width_space() -> list[Shape]:
    shapes = []
    for hidden in (4096, 3840, 3584, 3328, 3072, 2816, 2560):
        for ffn in (14336, 13312, 12288, 11264, 10240, 9216, 8192, 7168):
            shapes.append((32, hidden, ffn, 32))
    return shapes


def llama_depth_space() -> list[Shape]:
    return [(layers, 4096, 14336, 32) for layers in range(32, 7, -1)]


def qwen_space() -> list[Shape]:
    shapes = []
    for layers in (36, 34, 32, 30):
        for hidden in (4096, 3840, 3584, 3328, 3072, 2816, 2560):
            for ffn in (12288, 11776, 11264, 10752, 10240, 9728, 9216, 8704, 8192, 7680):
                shapes.append((layers, hidden, ffn, 32))
    return shapes


def mistral_space() -> list[Shape]:
    shapes = []
    for layers in (40, 38, 36):
        for hidden in (5120, 4608, 4096, 3584):
            for ffn in (14336, 12800, 11520, 10240, 8960):
                shapes.append((layers, hidden, ffn, 32))
    return shapes


@dataclass(frozen=True)
class Example:
    """What a spec should come to: the shapes of `space` with `low` to `high` parameters."""

    spec: str
    teacher: Shape
    count: Callable[[int, int, int, int], int]
    space: list[Shape]
    low: int
    high: int

    @property
    def fitting(self) -> list[Shape]:
        return [shape for shape in self.space if self.low <= self.count(*shape) <= self.high]


NEMOTRON, LLAMA = (32, 6144, 24576, 48), (32, 4096, 14336, 32)
QWEN, MISTRAL = (36, 4096, 12288, 32), (40, 5120, 14336, 32)
MINITRON_8B = minitron_space((6144, 5632, 5120, 4608, 4096), (48, 32))
MINITRON_4B = minitron_space((4608, 4096, 3584, 3072, 2560), (48, 32, 24))
BILLION = 10**9
MILLION = 10**6
LISTED = (
    Example("nemotron-4-15b/8b.yaml", NEMOTRON, nemotron_4, MINITRON_8B, 7_600 * MILLION, 8_400 * MILLION),
    Example("nemotron-4-15b/8b-table-19.yaml", NEMOTRON, nemotron_4, MINITRON_8B, 7_800 * MILLION, 8_500 * MILLION),
    Example("nemotron-4-15b/4b.yaml", NEMOTRON, nemotron_4, MINITRON_4B, 3_800 * MILLION, 4_200 * MILLION),
    Example("llama-3.1-8b/width-4b.yaml", LLAMA, llama_3_1, llama_width_space(), 4_275 * MILLION, 4_725 * MILLION),
    Example("llama-3.1-8b/depth-4b.yaml", LLAMA, llama_3_1, llama_depth_space(), 4_275 * MILLION, 4_725 * MILLION),
    Example("qwen3-8b/6b.yaml", QWEN, qwen_3, qwen_space(), 0, 6_000 * MILLION),
    Example("mistral-nemo-12b/8b.yaml", MISTRAL, mistral_nemo, mistral_space(), 7_980 * MILLION, 8_820 * MILLION),
)
BY_SPEC = {example.spec: example for example in LISTED}
every_example = pytest.mark.parametrize("example", LISTED, ids=BY_SPEC)


def enumerated(spec: str) -> EnumerationView:
    return enumerate_spec(read_spec(EXAMPLES / spec))


def found(view: EnumerationView) -> dict[tuple[int, ...], int]:
    """Sizes along all axes -> parameters, in the order of the candidates."""
    return {candidate.architecture.axes: candidate.cost.parameters for candidate in view.candidates}


def all_axes(shape: Shape) -> tuple[int, ...]:
    """With the key-value groups, and without experts."""
    return (*shape, GROUPS, 0)


# --- what Topiary answers ---------------------------------------------------------------------------------------


def test_every_spec_is_among_these() -> None:
    specs = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*/*.yaml")}
    assert specs - {"demo/search.yaml"} == set(BY_SPEC)


@every_example
def test_the_config_alone_is_enumerated_as_by_hand(example: Example) -> None:
    view = enumerated(example.spec)
    assert found(view) == {all_axes(shape): example.count(*shape) for shape in example.fitting}
    assert [candidate.architecture.axes for candidate in view.candidates] == [*map(all_axes, example.fitting)]
    assert (view.num_fitting, view.num_shapes) == (len(example.fitting), len(example.space))
    assert view.teacher.axes == all_axes(example.teacher)
    assert view.teacher_cost.parameters == example.count(*example.teacher)
    assert {candidate.architecture.head_dim for candidate in view.candidates} == {HEAD_DIM}


@every_example
def test_the_readme_says_how_many(example: Example) -> None:
    folder, name = example.spec.split("/")
    readme = (EXAMPLES / folder / "README.md").read_text()
    rows = re.findall(r"^\| \[(.+)\]\(\1\) \|.*\| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    counts = {row[0]: (int(row[1]), int(row[2])) for row in rows}
    assert counts[name] == (len(example.space), len(example.fitting))


# --- what was published -----------------------------------------------------------------------------------------

MINITRON_4B_CANDIDATES = {
    (29, 24, 9216, 3072): 3.945,
    (29, 32, 7680, 3072): 3.854,
    (29, 32, 9216, 3072): 4.128,
    (29, 48, 10240, 2560): 3.896,
    (30, 24, 9216, 3072): 4.027,
    (30, 32, 7680, 3072): 3.933,
    (30, 48, 10240, 2560): 3.985,
    (31, 24, 7680, 3072): 3.816,
    (31, 24, 9216, 3072): 4.109,
    (31, 32, 7680, 3072): 4.011,
    (31, 48, 8960, 2560): 3.871,
    (31, 48, 10240, 2560): 4.074,
    (32, 24, 7680, 3072): 3.889,
    (32, 24, 9216, 3072): 4.191,
    (32, 32, 7680, 3072): 4.090,
    (32, 32, 10240, 2560): 3.828,
    (32, 48, 8960, 2560): 3.953,
    (32, 48, 10240, 2560): 4.163,
}
"""(layers, heads, MLP, hidden) -> billions of parameters, worked out apart from this code."""

TABLE_19 = {
    (32, 32, 12800, 5120), (32, 32, 13824, 4608), (32, 48, 11520, 4608), (32, 48, 16384, 4096), (31, 32, 12800, 5120),
    (31, 32, 16128, 4608), (31, 48, 13824, 4608), (31, 48, 16384, 4096), (30, 32, 12800, 5120), (30, 32, 16128, 4608),
    (30, 48, 13824, 4608), (30, 48, 16384, 4096), (29, 32, 12800, 5120), (29, 32, 16128, 4608), (29, 48, 13824, 4608),
}  # fmt: skip
"""(layers, heads, MLP, hidden) of the candidates for 8B that the paper lists."""

QWEN_LARGEST = [
    (34, 3328, 11264), (30, 3584, 11776), (36, 3840, 8192), (36, 3584, 9216), (36, 3072, 11776), (32, 3584, 10752),
    (36, 3328, 10240),
]  # fmt: skip
"""(layers, hidden, MLP): the first rows of the list that NVIDIA scored, with the winner second."""


def as_in_the_paper(axes: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(layers, heads, MLP, hidden)."""
    layers, hidden, ffn, heads = axes[:4]
    return layers, heads, ffn, hidden


def billions(parameters: int) -> float:
    return round(parameters / BILLION, 3)


@pytest.mark.parametrize(
    ("shape", "total", "non_embedding"),
    [
        (NEMOTRON, 15.629, 12.483),
        ((32, 4096, 16384, 48), 8.272, 6.175),  # Minitron 8B
        ((32, 3072, 9216, 24), 4.191, 2.618),  # Minitron 4B
        ((16, 6144, 24576, 48), 9.387, 6.242),  # Cut in depth only
        ((32, 4096, 16384, 32), 7.735, 5.638),  # And in width only
    ],
)
def test_the_papers_models_are_counted_as_by_hand(shape: Shape, total: float, non_embedding: float) -> None:
    config = json.loads((EXAMPLES / "nemotron-4-15b" / "config.json").read_text())
    sizes = dict(zip(AXES, shape, strict=False))
    costs = cost(family_named("nemotron").architecture(config).resized(**sizes), dtype="int8", batch_size=1, context=1)
    assert costs.parameters == nemotron_4(*shape)
    assert (billions(costs.parameters), billions(costs.non_embedding_parameters)) == (total, non_embedding)


def test_a_trial_is_the_papers_400_steps() -> None:
    assert TrialSpec().actual_tokens(4096) == 400 * 1152 * 4096 == 1_887_436_800


def test_nemotron_to_4b_gives_18() -> None:
    view = enumerated("nemotron-4-15b/4b.yaml")
    candidates = {as_in_the_paper(axes): billions(count) for axes, count in found(view).items()}
    assert candidates == MINITRON_4B_CANDIDATES
    assert (view.num_fitting, view.num_shapes) == (18, 240)
    assert (32, 24, 9216, 3072) in candidates  # The one that was published.


def test_nemotron_to_8b_gives_18_by_the_rule_and_table_19_by_its_range() -> None:
    by_rule, by_range = enumerated("nemotron-4-15b/8b.yaml"), enumerated("nemotron-4-15b/8b-table-19.yaml")
    assert (by_rule.num_fitting, by_range.num_fitting, by_rule.num_shapes) == (18, 15, 160)
    of_rule, of_range = ({as_in_the_paper(axes) for axes in found(view)} for view in (by_rule, by_range))
    assert of_range == TABLE_19
    assert len(TABLE_19 & of_rule) == 13
    assert (32, 48, 16384, 4096) in of_rule & of_range  # The one that was published.


def test_llama_to_4b_holds_both_published_students() -> None:
    width, depth = found(enumerated("llama-3.1-8b/width-4b.yaml")), found(enumerated("llama-3.1-8b/depth-4b.yaml"))
    assert width[all_axes((32, 3072, 9216, 32))] == 4_512_746_496
    assert depth[all_axes((16, 4096, 14336, 32))] == 4_540_469_248


def test_qwen_to_6b_is_nvidias_search() -> None:
    view = enumerated("qwen3-8b/6b.yaml")
    assert view.teacher_cost.parameters == 8_190_735_360
    assert (view.num_shapes, view.num_fitting) == (280, 199)
    by_size = sorted(found(view).items(), key=lambda item: item[1], reverse=True)
    assert [axes[:3] for axes, _ in by_size[: len(QWEN_LARGEST)]] == QWEN_LARGEST
    assert billions(by_size[1][1]) == 5.989
    assert sum(count >= 5.89e9 for _, count in by_size) == 10  # As many as NVIDIA scores; the README says so.


def test_mistral_to_8b_holds_the_published_student() -> None:
    candidates = found(enumerated("mistral-nemo-12b/8b.yaml"))
    assert candidates[all_axes((40, 4096, 11520, 32))] == 8_414_105_600
