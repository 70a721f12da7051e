"""Trains the demo's teacher: corpus -> tokenizer -> token files -> a small Llama -> folder with a card.

Resumable: run it again and it goes on. Only the step that reads packages depends on what is installed.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.demo.corpus import Module, modules, versions
from examples.demo.trigram import trigram_loss
from nas.compression.correction import TextObjective
from nas.compression.data import PackedTokens, write_token_file
from nas.compression.device import default_device, resolve_dtype
from nas.compression.evaluate import evaluate
from nas.compression.head import SplitModel
from nas.compression.train import Progress as TrainingProgress
from nas.compression.train import Run, train
from nas.durable import write_text
from nas.training_spec import TrainingSpec

VOCAB_SIZE = 4096
SEQUENCE_LENGTH = 256
END_OF_TEXT = "<|endoftext|>"
DEFAULT_TOKENS = 16_384_000
END_OF_TEXT_ID = 0
CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "num_hidden_layers": 8,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": END_OF_TEXT_ID,
    "pad_token_id": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/demo-teacher"), help="token files and checkpoints")
    parser.add_argument("--into", type=Path, default=Path("examples/demo/teacher"), help="the finished teacher")
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="training tokens (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer = prepare(arguments.work)
    spec = TrainingSpec(
        tokens=arguments.tokens,
        batch_size=16,
        peak_learning_rate=3e-3,
        min_learning_rate=1e-4,
        warmup_steps=200,
        measurements=32,
        checkpoint_seconds=120,
    )
    model, curve = pretrain(arguments.work, spec)
    report = judge(arguments.work, model)
    publish(arguments.into, model, tokenizer, {"curve": curve, **report}, spec, arguments.work)


def prepare(work: Path) -> Tokenizer:
    """The tokenizer, and token files for training and for each package's validation."""
    tokenizer_file, corpus_file = work / "tokenizer.json", work / "corpus.json"
    if corpus_file.exists():
        return Tokenizer.from_file(str(tokenizer_file))
    print("reading the corpus", flush=True)
    corpus = modules()
    training = [module for module in corpus if not module.in_validation]
    validation = [module for module in corpus if module.in_validation]
    print(f"training a tokenizer of {VOCAB_SIZE} entries on {len(training)} modules", flush=True)
    tokenizer = train_tokenizer(module.text for module in training)
    tokenizer.save(str(tokenizer_file))
    manifest = write_token_file(work / "train.bin", _texts(training), tokenizer, END_OF_TEXT_ID)
    by_package: dict[str, list[Module]] = defaultdict(list)
    for module in validation:
        by_package[module.package].append(module)
    validation_tokens = {
        package: write_token_file(work / f"validation-{package}.bin", _texts(parts), tokenizer, END_OF_TEXT_ID)[
            "tokens"
        ]
        for package, parts in sorted(by_package.items())
    }
    write_token_file(work / "validation.bin", _texts(validation), tokenizer, END_OF_TEXT_ID)
    corpus_file.write_text(
        json.dumps(
            {
                "versions": versions(),
                "modules": {"training": len(training), "validation": len(validation)},
                "characters": sum(len(module.text) for module in corpus),
                "training_tokens": manifest["tokens"],
                "validation_tokens": validation_tokens,
            },
            indent=2,
        )
    )
    return tokenizer


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """A byte-level BPE tokenizer; entry 0 ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pretrain(work: Path, spec: TrainingSpec) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """The trained model in float32, and its loss on a part of the validation text along the way."""
    device = default_device()
    dtype = resolve_dtype("auto", device)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.to(device)  # type: ignore[arg-type]
    data = PackedTokens(work / "train.bin", SEQUENCE_LENGTH)
    sample = PackedTokens(work / "validation.bin", SEQUENCE_LENGTH).spread(128).to(device)
    curve_file = work / "curve.json"
    curve: dict[str, float] = json.loads(curve_file.read_text()) if curve_file.exists() else {}

    split = SplitModel(model, dtype, device)

    def measure(tokens: int) -> None:
        curve[str(tokens)] = evaluate(split, sample).loss
        write_text(curve_file, json.dumps(curve, indent=2))
        print(f"{time.strftime('%H:%M:%S')}  {tokens:>11,} tokens  validation {curve[str(tokens)]:.4f}", flush=True)

    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=spec.tokens, state="")

        def progress(now: TrainingProgress) -> None:
            state = f"{now.tokens:,} tokens, loss {now.training_loss:.3f}, {now.tokens_per_second:,.0f} tokens/s"
            bar.update(task, completed=now.tokens, total=now.total_tokens, state=state)

        run = Run(
            model=model,
            objective=TextObjective(split),
            data=data,
            spec=spec,
            seed=0,
            device=device,
            micro_batch_size=16,
        )
        train(run, checkpoints=work / "checkpoints", measure=measure, progress=progress)
    return model, [{"tokens": int(tokens), "loss": loss} for tokens, loss in curve.items()]


def judge(work: Path, model: LlamaForCausalLM) -> dict[str, Any]:
    """Validation loss by package and over all, of the weights as they will be stored, and the trigram's."""
    stored = LlamaForCausalLM(model.config)
    stored.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    corpus = json.loads((work / "corpus.json").read_text())
    losses: dict[str, tuple[float, int]] = {}
    for package, tokens in corpus["validation_tokens"].items():
        if tokens > SEQUENCE_LENGTH:
            packed = PackedTokens(work / f"validation-{package}.bin", SEQUENCE_LENGTH)
            everything = packed.first(packed.num_sequences)
            split = SplitModel(stored, torch.float32, torch.device("cpu"))
            losses[package] = (evaluate(split, everything).loss, everything.targets_BT.numel())
    total = sum(tokens for _, tokens in losses.values())
    manifests = [json.loads((work / f"{name}.json").read_text()) for name in ("train", "validation")]
    training, validation = (
        np.fromfile(work / f"{name}.bin", dtype=manifest["dtype"]).astype(np.int64)
        for name, manifest in zip(("train", "validation"), manifests, strict=True)
    )
    return {
        "corpus": corpus,
        "validation_loss": sum(loss * tokens for loss, tokens in losses.values()) / total,
        "validation_loss_by_package": {package: loss for package, (loss, _) in losses.items()},
        "trigram_loss": trigram_loss(training, validation, VOCAB_SIZE),
    }


def publish(
    into: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, report: dict[str, Any], spec: TrainingSpec, work: Path
) -> None:
    """Writes the Hugging Face folder in bfloat16, with the card and every figure behind it."""
    into.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(into)  # type: ignore[arg-type]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
    wrapped.save_pretrained(into)
    steps = spec.num_steps(SEQUENCE_LENGTH)
    report["training"] = {**spec.model_dump(), "sequence_length": SEQUENCE_LENGTH, "steps": steps}
    (into / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    (into / "README.md").write_text(card(report))
    print((into / "README.md").read_text())


def card(report: dict[str, Any]) -> str:
    """The model card, all figures from `report`."""
    corpus, training = report["corpus"], report["training"]
    rows = "\n".join(
        f"| {package} | {corpus['versions'][package]} | {corpus['validation_tokens'][package]:,} | {loss:.3f} |"
        for package, loss in sorted(report["validation_loss_by_package"].items())
    )
    others = sorted(set(corpus["versions"]) - set(report["validation_loss_by_package"]))
    return f"""# Demo teacher

A Llama of {CONFIG["num_hidden_layers"]} layers, hidden size {CONFIG["hidden_size"]}, intermediate size \
{CONFIG["intermediate_size"]}, {CONFIG["num_attention_heads"]} heads of {CONFIG["head_dim"]} in \
{CONFIG["num_key_value_heads"]} key-value groups, tied embeddings, {VOCAB_SIZE} byte-level BPE entries; bfloat16.
Made by `scripts/train_demo_teacher` for Topiary's demo. It writes things that look like Python, and is good for
nothing else.

- Corpus: Python source of the standard library and of packages that Topiary installs
  ({corpus["modules"]["training"]:,} modules to train on, {corpus["modules"]["validation"]:,} to validate on, split by
  a hash of package and module path; {corpus["characters"]:,} characters;
  {corpus["training_tokens"]:,} training tokens).
- Training: {training["tokens"]:,} tokens in {training["steps"]:,} steps of {training["batch_size"]} sequences of
  {training["sequence_length"]}; AdamW, rate {training["peak_learning_rate"]} to {training["min_learning_rate"]}.
- Validation loss: **{report["validation_loss"]:.4f}** nats per token, over all validation text, in windows of
  {training["sequence_length"]} tokens.
- A trigram model with back-off (interpolated Kneser-Ney) trained on all {corpus["training_tokens"]:,} training
  tokens: {report["trigram_loss"]:.4f}.

| package | version | validation tokens | loss |
|---|---|---|---|
{rows}

Trained on, with no module (or less than one window) in the validation text: \
{", ".join(f"{package} {corpus['versions'][package]}" for package in others) or "none"}.
The loss along the way and every setting are in `training.json`.
"""


def _texts(parts: list[Module]) -> Iterator[str]:
    return (module.text for module in parts)


if __name__ == "__main__":
    main()
