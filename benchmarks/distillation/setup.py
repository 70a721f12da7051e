"""The models, the tokens and the settings that all sides share."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM

from nas.architecture import Architecture
from nas.compression.data import PackedTokens
from nas.compression.token_files import write_token_file
from nas.families.llama import LLAMA
from nas.training_spec import TrainingSpec

VOCAB, LENGTH, BATCH, THREADS = 32_000, 256, 8, 2
WARM_UP, STEPS = 2, 6
DRAWS = 50
CPU = torch.device("cpu")
LEARNING_RATE, WEIGHT_DECAY, CLIP = 2e-4, 0.1, 1.0


@dataclass(frozen=True)
class Begun:
    """When a step began, and the most memory that this process had held by then."""

    at: float
    peak_bytes: int


def begun() -> Begun:
    return Begun(time.perf_counter(), memory("VmHWM"))


def memory(name: str) -> int:
    """Bytes that this process holds (VmRSS), or held at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def config(hidden_size: int, intermediate_size: int) -> dict[str, object]:
    return {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": 6,
        "num_attention_heads": hidden_size // 32,
        "num_key_value_heads": hidden_size // 32,
        "head_dim": 32,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0,
    }


TEACHER, STUDENT = config(256, 768), config(192, 512)


def shape(of: dict[str, object]) -> Architecture:
    return LLAMA.architecture(dict(of))


def model(of: dict[str, object], seed: int) -> LlamaForCausalLM:
    """Random. A head of larger weights gives a distribution about as narrow as that of a trained model."""
    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(**of))  # type: ignore[arg-type]
    if seed == 0:
        torch.nn.init.normal_(made.lm_head.weight, std=0.25)
    made.eval()
    return made


def training(num_steps: int) -> TrainingSpec:
    return TrainingSpec(
        tokens=num_steps * BATCH * LENGTH,
        batch_size=BATCH,
        micro_batch_size=BATCH,
        peak_learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP,
        measurements=1,
        checkpoint_seconds=1e9,
    )


def packed_tokens(folder: Path) -> PackedTokens:
    """Random ones, the same for all sides: what they are makes no difference."""
    file = folder / "tokens.bin"
    if not file.exists():
        tokenizer = Tokenizer(WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        count = (WARM_UP + STEPS + 2) * BATCH * LENGTH
        ids = torch.randint(1, VOCAB, (count,), generator=torch.Generator().manual_seed(0))
        write_token_file(file, iter([" ".join(f"t{i}" for i in ids.tolist())]), tokenizer, 0)
    return PackedTokens(file, LENGTH)
