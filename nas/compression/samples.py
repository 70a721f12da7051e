"""Sample texts: what a model makes of the beginnings of validation sequences, for people to read.

B prompts of T tokens each, W of them written.
"""

from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig

from nas.compression.data import Batch
from nas.compression.device import computing_in
from nas.training_record import TextSample

PROMPT_TOKENS, NEW_TOKENS = 32, 48


def max_positions(model: torch.nn.Module) -> int:
    """How many tokens the model's config has positions for."""
    untyped: Any = model
    positions: int = untyped.config.max_position_embeddings
    return positions


def prompts(validation: Batch, count: int, positions: int) -> torch.Tensor:
    """prompts_BT: the first tokens of the first `count` sequences.

    They leave a model with so many `positions` room for as much again.
    """
    return validation.inputs_BT[:count, : min(PROMPT_TOKENS, max(positions // 2, 1))]


def text_samples(
    prompts_BT: torch.Tensor,
    teacher: list[list[int]],
    student: list[list[int]],
    tokenizer: Tokenizer,
) -> tuple[TextSample, ...]:
    """What both went on with, as text."""
    return tuple(
        TextSample(
            prompt=tokenizer.decode(prompt),
            teacher=tokenizer.decode(teacher_wrote),
            student=tokenizer.decode(student_wrote),
        )
        for prompt, teacher_wrote, student_wrote in zip(prompts_BT.tolist(), teacher, student, strict=True)
    )


@torch.no_grad()
def continuations(
    model: torch.nn.Module, prompts_BT: torch.Tensor, end_of_text: int | None, dtype: torch.dtype, device: torch.device
) -> list[list[int]]:
    """What the model goes on with after each of the prompts: always the likeliest token, until the text ends.

    By transformers' own `generate`, and by none of the settings that came with the model: both models' texts are made
    alike. The model's mode and settings are afterwards as they were.
    """
    untyped: Any = model
    settings, training = untyped.generation_config, model.training
    plain = GenerationConfig(
        max_new_tokens=min(NEW_TOKENS, max_positions(model) - prompts_BT.shape[1]),
        do_sample=False,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )
    untyped.generation_config = GenerationConfig()  # Else it would fill in what `plain` leaves out.
    model.eval()
    try:
        with computing_in(dtype, device):
            written_BW = untyped.generate(
                prompts_BT, attention_mask=torch.ones_like(prompts_BT), generation_config=plain
            )[:, prompts_BT.shape[1] :]
    finally:
        untyped.generation_config = settings
        model.train(training)
    return [_until(written, end_of_text) for written in written_BW.tolist()]


def _until(written: list[int], end_of_text: int | None) -> list[int]:
    return written[: written.index(end_of_text)] if end_of_text is not None and end_of_text in written else written
