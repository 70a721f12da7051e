"""What `auto` decides, which layers are compared, and what teaches nothing."""

import pytest
from pydantic import ValidationError

from nas.distillation_spec import DistillationSpec


@pytest.mark.parametrize(
    ("teacher", "student", "terms"),
    [
        (32, 32, ()),
        (32, 29, ()),  # The paper's searches go as deep as this.
        (36, 24, ()),  # Just a third.
        (36, 23, ("embedding", "block_output")),
        (32, 16, ("embedding", "block_output")),  # The paper's Minitron-8B-Depth.
        (3, 1, ("embedding", "block_output")),
    ],
)
def test_auto_adds_hidden_states_where_depth_falls_by_more_than_a_third(
    teacher: int, student: int, terms: tuple[str, ...]
) -> None:
    assert DistillationSpec().terms(teacher, student) == terms
    assert DistillationSpec().decided(teacher, student).hidden_states == terms
    assert DistillationSpec(hidden_states=()).terms(teacher, student) == ()
    assert DistillationSpec(hidden_states=("mlp_input",)).terms(teacher, student) == ("mlp_input",)


def test_layers_are_counted_from_either_end() -> None:
    """By default as in the paper's best mapping of 32 to 16 layers, 29 to 13."""
    assert DistillationSpec().layer_pairs(32, 16) == ((29, 13),)
    pairs = DistillationSpec(hidden_layers=((0, 0), (-1, -1), (28, 12))).layer_pairs(32, 16)
    assert pairs == ((0, 0), (31, 15), (28, 12))
    assert DistillationSpec().layer_pairs(3, 2) == ((0, 0),), "one that lies before the first is the first"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"logits": "none"}, "logits is none, and neither language_modeling nor"),
        ({"logits": "none", "hidden_states": ["embedding"]}, "logits is none, and neither"),
        (
            {"logits": "none", "hidden_states": ["embedding"], "language_modeling": 1},
            "hidden_weight has nothing to follow and is to be given",
        ),
        ({"hidden_states": ["embedding", "embedding"]}, "names one twice: embedding, embedding"),
        ({"hidden_layers": []}, r"is no list of pairs of whole numbers, such as \[\[-3, -3\]\]"),
        ({"hidden_layers": [[1]]}, "is no list of pairs"),
        ({"hidden_states": "embedding"}, "is neither a list nor auto"),
        ({"hidden_states": ["embedding", "foo"]}, "has foo"),
        ({"top_k": 1}, "greater than 1"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_what_teaches_nothing_is_refused(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        DistillationSpec.model_validate(given)


def test_hidden_states_alone_teach_with_a_weight() -> None:
    alone = DistillationSpec(logits="none", hidden_states=("embedding",), hidden_weight=1.0)
    assert alone.named_terms == ("embedding",)
