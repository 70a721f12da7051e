"""The bundled teacher is what its card says, measured here again on text that it never saw."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from examples.demo.run import SPEC, write_corpus
from nas.compression.checkpoint import load_model
from nas.compression.data import PackedTokens, write_token_file
from nas.compression.documents import validation_documents
from nas.compression.evaluate import evaluate
from nas.compression.head import SplitModel
from nas.model_folder import inspect_model_folder
from nas.spec_file import read_spec

TEACHER = SPEC.parent / "teacher"


@pytest.fixture(scope="module")
def record() -> dict[str, object]:
    content: dict[str, object] = json.loads((TEACHER / "training.json").read_text())
    return content


def test_it_has_the_size_it_should(record: dict[str, object]) -> None:
    folder = inspect_model_folder(TEACHER)
    assert 3e6 <= folder.family.count(folder.architecture) <= 4e6
    assert folder.architecture.num_key_value_heads < folder.architecture.num_attention_heads
    assert folder.dtype == "bfloat16"
    assert (TEACHER / "model.safetensors").stat().st_size <= 10e6


def test_its_record_is_of_a_real_training(record: dict[str, object]) -> None:
    training, corpus = record["training"], record["corpus"]
    assert isinstance(training, dict)
    assert isinstance(corpus, dict)
    assert training["tokens"] >= 10_000_000
    assert training["steps"] * training["batch_size"] * training["sequence_length"] == training["tokens"]
    assert float(str(record["validation_loss"])) < float(str(record["trigram_loss"])) - 0.5
    assert set(corpus["validation_tokens"]) >= set(json.loads(json.dumps(record["validation_loss_by_package"])))


@torch.no_grad()
def test_it_reaches_about_its_recorded_loss_on_held_out_text(record: dict[str, object], tmp_path: Path) -> None:
    write_corpus(tmp_path / "train.jsonl", tmp_path / "validation.jsonl")
    data = read_spec(SPEC).data.model_copy(update={"validation": str(tmp_path / "validation.jsonl")})
    tokenizer = Tokenizer.from_file(str(TEACHER / "tokenizer.json"))
    write_token_file(tmp_path / "v.bin", validation_documents(data.all_sources[0], 1, set()), tokenizer, 0)
    packed = PackedTokens(tmp_path / "v.bin", sequence_length=256)
    model = load_model(inspect_model_folder(TEACHER), torch.device("cpu"))
    split = SplitModel(model, torch.float32, torch.device("cpu"))
    loss = evaluate(split, packed.first(packed.num_sequences)).loss
    # The demo's text is the beginnings of a part of the modules, which is why it is not the same figure.
    assert abs(loss - float(str(record["validation_loss"]))) < 0.3
    assert loss < float(str(record["trigram_loss"])) - 0.3
