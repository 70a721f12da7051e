"""Sample texts, against greedy decoding written out, for every family."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.data import Batch
from nas.compression.samples import continuations, prompts, text_samples
from nas.families import FAMILIES
from nas.training_record import TextSample
from tests.nas.families.small import ALL, Variant, built

CPU = torch.device("cpu")
FIRST = [next(variant for variant in ALL if variant.family is family) for family in FAMILIES.values()]


@torch.no_grad()
def greedy(model: Any, prompt: list[int], end_of_text: int) -> list[int]:
    """Always the likeliest, without a cache, for as long as there are positions."""
    written: list[int] = []
    for _ in range(min(48, model.config.max_position_embeddings - len(prompt))):
        logits_V = model(torch.tensor([prompt + written]), use_cache=False).logits[0, -1]
        if (token := int(logits_V.argmax())) == end_of_text:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("variant", FIRST, ids=str)
def test_a_model_goes_on_with_the_likeliest_token(variant: Variant) -> None:
    torch.manual_seed(1)
    model = built(variant.config).float().eval()
    settings = model.generation_config
    settings.repetition_penalty = 5.0  # What comes with one model must not make its texts another's.
    tokens = torch.randint(1, 40, (3, 24))
    given = prompts(Batch(tokens, tokens), 2, model.config.max_position_embeddings)
    assert torch.equal(given, tokens[:2, :16])
    expected = [greedy(model, prompt, 0) for prompt in given.tolist()]
    assert continuations(model, given, 0, torch.float32, CPU) == expected
    assert model.generation_config is settings


def test_a_text_that_ends_is_cut_there_and_the_others_go_on() -> None:
    torch.manual_seed(1)
    model = built(FIRST[0].config).float().eval()
    tokens = torch.randint(1, 40, (2, 5))
    given = prompts(Batch(tokens, tokens), 3, 32)
    assert torch.equal(given, tokens), "no more than there are"
    first, second = continuations(model, given, 40, torch.float32, CPU)  # No token has that number.
    assert len(first) == len(second) == 32 - 5
    end = next(token for token in first if token not in second)
    cut, whole = continuations(model, given, end, torch.float32, CPU)
    assert (cut, whole) == (first[: first.index(end)], second)


def test_texts_are_what_the_tokens_stand_for(tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.encode(text).ids for text in ("import os", "def f():", "class A:")]
    (sample,) = text_samples(torch.tensor(tokens[:1]), tokens[1:2], tokens[2:], tokenizer)
    assert sample == TextSample(prompt="import os", teacher="def f():", student="class A:")
