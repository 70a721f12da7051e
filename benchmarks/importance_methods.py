"""How good is a cut before any retraining, by method? `python -m benchmarks.importance_methods`

Cuts the demo teacher to one architecture by every choice there is, each time changing one of them from the paper's,
and measures the loss of what comes out on held-out Python source and on this repository's own prose: the form of the
paper's table 13 (arXiv 2407.14679), where Nemotron-4 15B is cut to the shape of Nemotron-3 8B. Every line is a mean
over SEEDS draws of calibration samples, with its standard error; chance is drawn anew each time.
"""

import json
import platform
import random
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from transformers.utils.logging import disable_progress_bar

from examples.demo.corpus import modules
from nas.architecture import Architecture
from nas.calibration import Aggregation, CalibrationSpec
from nas.compression.checkpoint import build_model, load_model
from nas.compression.choose import Kept, choose
from nas.compression.data import PackedTokens, write_token_file
from nas.compression.evaluate import evaluate
from nas.compression.head import SplitModel
from nas.compression.importance import Origin, Plan, Source, Statistics, calibrate
from nas.compression.importance.listening import Recording
from nas.compression.importance.questions import Question
from nas.compression.importance.rounds import choose_in_rounds
from nas.compression.prune import cut
from nas.model_folder import ModelFolder, inspect_model_folder

ROOT = Path(__file__).parents[1]
SEEDS, SAMPLES, LENGTH, VALIDATION, QUESTIONS, THREADS = 3, 128, 128, 64, 48, 2
MICRO_BATCH = 16
TRAINING_CHARACTERS, VALIDATION_CHARACTERS = 1_000_000, 150_000
SIZES = {"num_hidden_layers": 6, "hidden_size": 168, "intermediate_size": 384, "num_attention_heads": 4}
WIDE_MARGIN = 0.5
CPU = torch.device("cpu")
AGGREGATIONS: tuple[Aggregation, ...] = ("l2", "mean", "var")
TABLE_13 = {
    ("l2", "l2"): 8.73, ("l2", "mean"): 7.18, ("l2", "var"): 8.18, ("mean", "l2"): 8.41, ("mean", "mean"): 7.21,
    ("mean", "var"): 7.94, ("var", "l2"): 9.01, ("var", "mean"): 8.34, ("var", "var"): 10.55,
}  # fmt: skip
"""The paper's losses on its own data, by (batch, sequence)."""

TRIED: dict[str, Any] = {"depth_samples": 32}
"""What runs without layers, many times, sees fewer samples."""

SPECS: dict[str, dict[str, dict[str, Any]]] = {
    "neurons, where": {
        "into down_proj (ours)": {},
        "gate_proj's output": {"neurons": "gate_output"},
        "up_proj's output": {"neurons": "up_output"},
    },
    "depth": {
        "Block Influence (ours)": {},
        "perplexity": {**TRIED, "depth": "perplexity"},
        "logits, one by one": {**TRIED, "depth": "logit_mse"},
        "accuracy": {"depth": "accuracy", "questions": "made here"},
        "uniform": {"depth": "uniform"},
        "magnitude": {"depth": "magnitude"},
        "random": {"depth": "random"},
    },
    "depth, contiguous": {
        "Block Influence": {"contiguous": True},
        "perplexity": {**TRIED, "depth": "perplexity", "contiguous": True},
        "logits": {**TRIED, "depth": "logit_mse", "contiguous": True},
        "accuracy (follow-up)": {"preset": "follow-up", "questions": "made here"},
    },
    "head residual": {
        "off (ours)": {},
        "W_Q": {"head_residual": "query"},
        "W_Q and W_O": {"head_residual": "query_and_output"},
    },
    "rounds": {"1 (ours)": {}, "2": {"rounds": 2}, "4": {"rounds": 4}},
    "width": {
        "activation (ours)": {},
        "Wanda-type": {"width": "wanda"},
        "magnitude": {"width": "magnitude"},
        "random": {"width": "random"},
    },
    "everything": {
        "the paper's choice": {},
        "uniform depth, magnitude": {"width": "magnitude", "depth": "uniform"},
        "random": {"width": "random", "depth": "random"},
    },
}
"""What is compared: title -> line -> how it departs from the default."""


@dataclass(frozen=True)
class Loss:
    """On both texts, over the seeds."""

    python: tuple[float, ...]
    prose: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.python)

    @staticmethod
    def told(values: tuple[float, ...]) -> str:
        error = statistics.stdev(values) / len(values) ** 0.5
        return f"{statistics.fmean(values):.3f} ± {error:.3f}"


class Bench:
    """The demo teacher, and texts to calibrate and to measure on."""

    def __init__(self, folder: Path) -> None:
        self.teacher: ModelFolder = inspect_model_folder(ROOT / "examples" / "demo" / "teacher")
        self.student: Architecture = self.teacher.architecture.resized(**SIZES)
        self.source = Source.of(self.teacher, CPU, micro_batch_size=MICRO_BATCH)
        everything = modules()
        train = _up_to(TRAINING_CHARACTERS, (each.text for each in everything if not each.in_validation))
        python = _up_to(VALIDATION_CHARACTERS, (each.text for each in everything if each.in_validation))
        prose = [path.read_text() for path in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])]
        self.train = self._packed(folder / "train.bin", train)
        self.validation = {
            "python": self._packed(folder / "python.bin", python).spread(VALIDATION),
            "prose": self._packed(folder / "prose.bin", prose).spread(VALIDATION),
        }

    def _packed(self, path: Path, texts: list[str]) -> PackedTokens:
        tokenizer = Tokenizer.from_file(str(self.teacher.path / "tokenizer.json"))
        write_token_file(path, iter(texts), tokenizer, self.teacher.end_of_text or 0)
        return PackedTokens(path, LENGTH)

    @cached_property
    def questions(self) -> list[Question]:
        """How does this piece of text go on: as it did, or as one of three others?"""
        draw, pieces = random.Random(0), self.train.sample(QUESTIONS, seed=9).inputs_BT.tolist()
        questions = []
        for number, piece in enumerate(pieces):
            others = draw.sample([each for other, each in enumerate(pieces) if other != number], 3)
            ends = [piece[64:80], *(other[64:80] for other in others)]
            order = draw.sample(range(4), 4)
            choices = tuple((tuple(piece[:64] + ends[each]), 16) for each in order)
            questions.append(Question(choices, order.index(0)))
        return questions

    def statistics(self, spec: CalibrationSpec, seed: int, collect: Recording | None = None) -> Statistics:
        plan = Plan(self.teacher.architecture, spec, (self.student.num_hidden_layers,), collect=collect)
        samples = self.train.sample(SAMPLES, seed)
        return calibrate(plan, self.source, samples, Origin("", "", "", seed), questions=self.questions)

    def loss(self, kept: Kept) -> tuple[float, float]:
        """Of the student right after the cut, in nats per token."""
        tensors = dict(cut(self.source.read, self.teacher.architecture, self.student, kept))
        model = build_model(self.teacher.family.config(self.teacher.config, self.student, kept.layers), tensors, CPU)
        losses = [
            evaluate(SplitModel(model, torch.float32, CPU), each, micro_batch_size=32).loss
            for each in self.validation.values()
        ]
        return losses[0], losses[1]

    @cache  # noqa: B019 - one bench lives as long as the program; the paper's choice is in most tables.
    def by_spec(self, spec: CalibrationSpec, seed: int) -> tuple[float, float]:
        found = self.statistics(spec, seed)
        kept = choose_in_rounds(
            self.teacher,
            self.student,
            spec,
            found.scores(spec),
            self.train.sample(SAMPLES, seed),
            seed,
            device=CPU,
            micro_batch_size=MICRO_BATCH,
            questions=self.questions,
        )
        return self.loss(kept)

    def by_aggregation(self, seed: int) -> Iterator[tuple[tuple[str, str], tuple[float, float]]]:
        """One pass for all nine pairs."""
        spec = CalibrationSpec(samples=SAMPLES)
        found = self.statistics(spec, seed, Recording(AGGREGATIONS))
        for batch in AGGREGATIONS:
            for sequence in AGGREGATIONS:
                scores = found.scores(spec.model_copy(update={"over_batch": batch, "over_sequence": sequence}))
                yield (batch, sequence), self.loss(choose(scores, self.teacher.architecture, self.student))


def main() -> None:
    torch.set_num_threads(THREADS)
    disable_progress_bar()
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        pairs = _of_pairs(bench, console)
        losses = {
            title: {
                line: _over_seeds(bench, CalibrationSpec.model_validate({**spec, "samples": SAMPLES}))
                for line, spec in track(lines.items(), title, console=Console(stderr=True))
            }
            for title, lines in SPECS.items()
        }
        teacher = SplitModel(load_model(bench.teacher, CPU), torch.float32, CPU)
        whole = {name: evaluate(teacher, each, micro_batch_size=32).loss for name, each in bench.validation.items()}
    console.print(
        f"the demo teacher, {bench.teacher.architecture.label}, cut to {bench.student.label}, not retrained; loss in "
        f"nats per token; the teacher's own: {whole['python']:.3f} on Python, {whole['prose']:.3f} on prose"
    )
    console.print(_table_13(pairs))
    for title, lines in losses.items():
        console.print(_table(title, lines))
    for sentence in _agreement(pairs, losses):
        console.print(f"- {sentence}")
    _finish(pairs, losses)


def _up_to(characters: int, texts: Iterator[str]) -> list[str]:
    """Whole texts until that many characters are reached."""
    chosen, length = [], 0
    for text in texts:
        chosen.append(text)
        length += len(text)
        if length >= characters:
            break
    return chosen


def _of_pairs(bench: Bench, console: Console) -> dict[tuple[str, str], Loss]:
    seeds = track(range(SEEDS), "aggregations", console=Console(stderr=True))
    of_seeds = [dict(bench.by_aggregation(seed)) for seed in seeds]
    return {
        pair: Loss(tuple(each[pair][0] for each in of_seeds), tuple(each[pair][1] for each in of_seeds))
        for pair in TABLE_13
    }


def _over_seeds(bench: Bench, spec: CalibrationSpec) -> Loss:
    found = [bench.by_spec(spec, seed) for seed in range(SEEDS)]
    return Loss(tuple(python for python, _ in found), tuple(prose for _, prose in found))


def _table_13(pairs: dict[tuple[str, str], Loss]) -> Table:
    table = Table("batch", "sequence", "Python", "prose", "paper, its own data", title="aggregation", box=None)
    for (batch, sequence), loss in pairs.items():
        told = Loss.told(loss.python), Loss.told(loss.prose)
        table.add_row(batch, sequence, *told, f"{TABLE_13[batch, sequence]:.2f}")
    return table


def _table(title: str, lines: dict[str, Loss]) -> Table:
    table = Table("", "Python", "prose", title=title, box=None)
    for line, loss in lines.items():
        table.add_row(line, Loss.told(loss.python), Loss.told(loss.prose))
    return table


def _agreement(pairs: dict[tuple[str, str], Loss], losses: dict[str, dict[str, Loss]]) -> Iterator[str]:
    """What agrees with the paper, and what does not, as the numbers have it."""
    ours, theirs = sorted(pairs, key=lambda pair: pairs[pair].mean), sorted(TABLE_13, key=TABLE_13.__getitem__)
    concordant = [
        (pairs[a].mean - pairs[b].mean) * (TABLE_13[a] - TABLE_13[b]) > 0 for a in pairs for b in pairs if a < b
    ]
    tau = 2 * sum(concordant) / len(concordant) - 1
    yield f"aggregation: order here {_names(ours)}; in the paper {_names(theirs)}; Kendall's tau {tau:.2f}"
    default = pairs["l2", "mean"].mean
    claims = {
        "(L2, mean) is the best of nine": default <= min(loss.mean for loss in pairs.values()),
        "(L2, mean) is within 0.05 of the best": default <= min(loss.mean for loss in pairs.values()) + 0.05,
        "(L2, mean) before (L2, L2)": default < pairs["l2", "l2"].mean,
        "(mean, mean) is within 0.1 of (L2, mean)": abs(pairs["mean", "mean"].mean - default) < 0.1,
        "(var, var) is the worst": pairs["var", "var"].mean >= max(loss.mean for loss in pairs.values()),
        "removing by perplexity before Block Influence (the paper: after 1.8 B tokens)": (
            losses["depth"]["perplexity"].mean < losses["depth"]["Block Influence (ours)"].mean
        ),
        "the head residual lowers the loss (the paper: after retraining, no number)": (
            losses["head residual"]["W_Q"].mean < losses["head residual"]["off (ours)"].mean
        ),
        "more rounds change the loss by less than 0.15 (the paper: 5.43, 5.55, 5.24 with 1, 2, 4)": all(
            abs(losses["rounds"][rounds].mean - losses["rounds"]["1 (ours)"].mean) < 0.15 for rounds in ("2", "4")
        ),
    }
    for claim, holds in claims.items():
        yield f"{'agrees' if holds else 'does not'}: {claim}"


def _names(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f"({batch}, {sequence})" for batch, sequence in pairs)


def _finish(pairs: dict[tuple[str, str], Loss], losses: dict[str, dict[str, Loss]]) -> None:
    paper, chance = losses["everything"]["the paper's choice"], losses["everything"]["random"]
    figures = {
        "paper_choice": round(paper.mean, 4),
        "best_aggregation": round(min(loss.mean for loss in pairs.values()), 4),
        "random": round(chance.mean, 4),
        "margin_over_random": round(chance.mean - paper.mean, 4),
        "random_width": round(losses["width"]["random"].mean, 4),
        "random_depth": round(losses["depth"]["random"].mean, 4),
    }
    print(
        f"{SEEDS} seeds, {SAMPLES} samples of {LENGTH} tokens, {VALIDATION} sequences of each text, {THREADS} threads"
    )
    print(f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}")
    holds = figures["margin_over_random"] >= WIDE_MARGIN
    targets = {"margin_over_random": [">=", WIDE_MARGIN]}
    print(json.dumps({"benchmark": "importance_methods", "figures": figures, "targets": targets, "holds": holds}))


if __name__ == "__main__":
    main()
