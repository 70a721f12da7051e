"""A tiny real teacher and real text, shared by the whole run."""

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nas.spec import SearchSpec
from nas.spec_file import parse_spec
from tests.ftp_server import ftp_server
from workers import artifacts

STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
END_OF_TEXT = "<|endoftext|>"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source of the standard library in pieces of a few thousand characters, one document each."""
    path = tmp_path_factory.mktemp("text") / "source.jsonl"
    text = "".join((STANDARD_LIBRARY / f"{name}.py").read_text() for name in ("argparse", "ast", "inspect", "typing"))
    pieces = (text[start : start + 4000] for start in range(0, len(text), 4000))
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return path


@pytest.fixture(scope="session")
def tokenizer(text_file: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text_file.read_text()], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, text_file: Path) -> Path:
    """A Llama in bfloat16 that has learnt a little of the text; 3 layers, 4 heads in 2 groups."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
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
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    learn(model, torch.tensor(tokenizer.encode(text_file.read_text()).ids))
    folder = tmp_path_factory.mktemp("teacher")
    model.bfloat16().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT).save_pretrained(folder)
    return folder


def learn(model: LlamaForCausalLM, tokens: torch.Tensor) -> None:
    """Some steps of plain pretraining: enough that what is cut off is missed, and found again by retraining."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    windows = tokens[: len(tokens) // 32 * 32].view(-1, 32)
    for _ in range(800):
        batch = windows[torch.randint(len(windows), (16,))]
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a store that other processes reach too: a new one, or TOPIARY_TEST_STORE, such as s3://bucket."""
    if given := os.environ.get("TOPIARY_TEST_STORE"):
        yield given
        return
    with ftp_server(tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture
def root(store: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder of that store for one test."""
    url = f"{store}/{request.node.name.replace('[', '-').replace(']', '')}-{os.getpid()}"
    yield url
    artifacts.delete_folders([url])


@pytest.fixture(autouse=True, scope="session")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What nodes keep of their own goes with the run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TOPIARY_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        yield


def tiny_spec(teacher: Path, text: Path, **changes: object) -> SearchSpec:
    """A search of four candidates that takes seconds."""
    content: dict[str, object] = {
        "name": "tiny",
        "teacher": str(teacher),
        "budget": {"parameters": 43_000, "tolerance": 0.14},
        "space": {"num_hidden_layers": [3, 2], "hidden_size": [48, 36], "intermediate_size": [64, 32]},
        "data": {"train": str(text), "validation_sequences": 64, "validation_fraction": 0.2, "sequence_length": 32},
        "calibration": {"samples": 8},
        "trial": {
            "tokens": 1280,
            "batch_size": 4,
            "peak_learning_rate": 3e-3,
            "warmup_steps": 2,
            "measurements": 2,
            "checkpoint_seconds": 0,
            "text_samples": 1,
        },
        "promotion": {
            "tokens": 1280,
            "batch_size": 4,
            "warmup_steps": 2,
            "measurements": 2,
            "checkpoint_seconds": 0,
            "text_samples": 0,
        },
        "strategy": {"kind": "exhaustive"},
        "resources": {"dtype": "float32"},
        "backoff_seconds": 0,
        **changes,
    }
    return parse_spec(content, relative_to=Path("/"))
