"""What the searches are made of: a small teacher, real text, one spec; and that there is always one that runs."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from benchmarks.faults.stage import Stage
from examples.demo.corpus import STANDARD_LIBRARY, modules
from nas.client import Client
from nas.errors import ServiceError, StoreError
from nas.spec import SearchSpec
from nas.spec_file import parse_spec

AT_ONCE = 2
"""Searches that run at a time: one alone would leave a node idle while its text is prepared, or its winner promoted."""

_ANSWER_SECONDS = 20
_BACKOFF_SECONDS = 0.5
_CHARACTERS = 600_000
_VOCABULARY, _END_OF_TEXT = 320, "<|endoftext|>"
_TRAINING = {
    "tokens": 51_200,
    "batch_size": 4,
    "peak_learning_rate": 3e-3,
    "warmup_steps": 5,
    "measurements": 4,
    "checkpoint_seconds": 0,
}
"""400 steps, with a checkpoint after each: some seconds, of which any may be the last."""


def make_spec(folder: Path) -> SearchSpec:
    """A search of four candidates, its teacher and its text in `folder`."""
    disable_progress_bar()
    teacher, text = folder / "teacher", folder / "text.jsonl"
    _write_text(text)
    _write_teacher(teacher, text)
    content: dict[str, Any] = {
        "name": "undisturbed",
        "teacher": str(teacher),
        "budget": {"parameters": 45_000, "tolerance": 0.5},
        "space": {"num_hidden_layers": [3, 2], "hidden_size": [48, 36]},
        "data": {"train": str(text), "validation_sequences": 64, "validation_fraction": 0.1, "sequence_length": 32},
        "calibration": {"samples": 16},
        "trial": _TRAINING,
        "strategy": {"kind": "exhaustive"},
        "promotion": _TRAINING,
        "resources": {"dtype": "float32"},
    }
    return impatient(parse_spec(content, relative_to=Path("/")))


def impatient(spec: SearchSpec) -> SearchSpec:
    """The spec for a place where workers die all the time: their jobs are tried again after a moment."""
    return spec.model_copy(update={"backoff_seconds": _BACKOFF_SECONDS})


def _write_teacher(folder: Path, text: Path) -> None:
    """A Llama of random weights, and a tokenizer of few tokens: they cost the least time, which is for what breaks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.read_text()], trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END_OF_TEXT).save_pretrained(folder)


def _write_text(file: Path) -> None:
    """The first modules of the standard library, one document each."""
    left = _CHARACTERS
    with file.open("w") as lines:
        for module in modules((STANDARD_LIBRARY,)):
            lines.write(json.dumps({"text": module.text}) + "\n")
            left -= len(module.text)
            if left < 0:
                return


def run_undisturbed(spec: SearchSpec, into: Path) -> str:
    """Runs the search by `topiary run`, which knows neither Ray nor HTTP; returns the URL of its database."""
    file = into.with_name("undisturbed.json")
    file.write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "api.cli", "run", str(file), "--into", str(into)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return f"sqlite:///{into / 'topiary.db'}"


class Work:
    """Searches of one spec, under one name after another."""

    def __init__(self, stage: Stage, spec: SearchSpec, at_once: int = AT_ONCE) -> None:
        self._stage, self._spec, self._at_once = stage, spec, at_once
        self.names: list[str] = []

    def top_up(self) -> None:
        """Submits what is missing to `at_once` running searches; what cannot be asked now is asked the next time."""
        seen = self._stage.look()
        missing = 0 if seen is None else self._at_once - seen.num_running
        with suppress(ServiceError, StoreError), Client(self._stage.url, timeout=_ANSWER_SECONDS) as client:
            for _ in range(missing):
                name = f"search-{len(self.names) + 1:03d}"
                client.submit(self._spec.model_copy(update={"name": name}))
                self.names.append(name)
