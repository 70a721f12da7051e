"""Which loss teaches a student best? `python -m benchmarks.losses`

Retrains a student that is cut in width and one that has lost half of its layers, by each loss over equal tokens: the
form of the paper's tables 15 to 18 (arXiv 2407.14679), on the demo's teacher. Every line is a mean over two seeds,
which order the text and draw the projection of hidden states; two give a weak standard error, and differences from
forward KL alone are therefore told within seeds, too, where the text is the same.
"""

import json
import platform
import statistics
from collections.abc import Iterator
from importlib.metadata import version
from itertools import combinations
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.demo_runs import Demo, Record, Wanted, mean_and_error, with_demo
from nas.distillation_spec import DistillationSpec

SEEDS, TOKENS = (0, 1), 25_600
KL = "KL alone"
CUTS: dict[str, dict[str, int]] = {
    "width": {"hidden_size": 168, "intermediate_size": 256, "num_attention_heads": 4},
    "depth": {"num_hidden_layers": 4},
}
"""Both leave about half of the parameters that are not embeddings."""

LOSSES: dict[str, dict[str, Any]] = {
    "CLM + MSE": {"logits": "mse", "language_modeling": 1},
    "CLM + reverse KL": {"logits": "reverse_kl", "language_modeling": 1},
    "CLM + cosine": {"logits": "cosine", "language_modeling": 1},
    "CLM + KL": {"logits": "forward_kl", "language_modeling": 1},
    KL: {},
    "reverse KL alone": {"logits": "reverse_kl"},
    "Jensen-Shannon alone": {"logits": "jensen_shannon"},
    "CLM alone": {"logits": "none", "language_modeling": 1},
}
TERMS: dict[str, dict[str, Any]] = {
    "KL, block output": {"hidden_states": ["block_output"]},
    "KL, block output, embedding": {"hidden_states": ["block_output", "embedding"]},
    "KL, block output, embedding, MLP input": {"hidden_states": ["block_output", "embedding", "mlp_input"]},
    "KL, block output, embedding, last to last": {
        "hidden_states": ["block_output", "embedding"],
        "hidden_layers": [[-1, -1]],
    },
}
"""From third from last to third from last, unless another mapping is said."""

LINES: dict[str, dict[str, dict[str, Any]]] = {
    "width": {**LOSSES, "KL, block output, embedding": TERMS["KL, block output, embedding"]},
    "depth": {**LOSSES, **TERMS},
}
PAPER: dict[str, dict[str, float]] = {
    "width": {"CLM + MSE": 2.144, "CLM + reverse KL": 2.140, "CLM + cosine": 2.134, "CLM + KL": 2.117, KL: 2.107},
    "depth": {
        KL: 2.155,
        "reverse KL alone": 2.665,
        "KL, block output": 2.145,
        "KL, block output, embedding": 2.141,
        "KL, block output, embedding, MLP input": 2.141,
        "KL, block output, embedding, last to last": 2.180,
    },
}
"""Its losses on its own data: table 15, and tables 16 and 17."""

FIVE = tuple(PAPER["width"])
MOST = 3
"""Of the four comparisons of five losses, in how many KL alone has to be the lowest."""

Losses = dict[str, dict[str, tuple[float, ...]]]
"""By cut and line: the losses of the seeds."""


def main() -> None:
    with_demo(measure, __doc__)


def measure(demo: Demo, record: Record) -> None:
    wanted = {
        (cut, line, seed): _wanted(demo, cut, spec, seed)
        for seed in SEEDS
        for cut, lines in LINES.items()
        for line, spec in lines.items()
    }
    ended = dict(zip(wanted, record.all_of(wanted.values(), demo.run), strict=True))
    losses: Losses = {
        cut: {line: tuple(ended[cut, line, seed].loss for seed in SEEDS) for line in lines}
        for cut, lines in LINES.items()
    }
    console = Console(width=110)
    for cut, lines in losses.items():
        start = ended[cut, KL, SEEDS[0]]
        shape = start.wanted.architecture.label
        console.print(_table(f"{cut}: {shape}, loss {start.curve[0].loss:.3f} after the cut", cut, lines))
        for sentence in _orders(cut, lines):
            console.print(f"- {cut}: {sentence}")
    claims = _claims(losses)
    for claim, (agreeing, of) in claims.items():
        verdict = "agrees" if agreeing == of else "does not" if agreeing == 0 else "in part"
        console.print(f"- {verdict}, {agreeing} of {of}: {claim}")
    _finish(wanted["width", KL, 0], losses, claims)


def _wanted(demo: Demo, cut: str, spec: dict[str, Any], seed: int) -> Wanted:
    distillation = DistillationSpec.model_validate({"hidden_states": [], **spec})
    return demo.wanted(
        demo.teacher.architecture.resized(**CUTS[cut]), seed, distillation, tokens=TOKENS, measurements=1
    )


def _table(title: str, cut: str, lines: dict[str, tuple[float, ...]]) -> Table:
    table = Table("", "loss", "over KL alone", "paper, its own data", title=title, box=None)
    for line, losses in sorted(lines.items(), key=lambda each: statistics.fmean(each[1])):
        differences = [loss - other for loss, other in zip(losses, lines[KL], strict=True)]
        paper = PAPER[cut].get(line)
        told = "" if line == KL else mean_and_error(differences)
        table.add_row(line, mean_and_error(losses), told, "" if paper is None else f"{paper:.3f}")
    return table


def _orders(cut: str, lines: dict[str, tuple[float, ...]]) -> Iterator[str]:
    """The order of what the paper has in one table, here and there."""
    theirs = PAPER[cut]
    ours = {line: statistics.fmean(lines[line]) for line in theirs}
    yield f"order here: {' < '.join(sorted(ours, key=ours.__getitem__))}"
    yield f"in the paper: {' < '.join(sorted(theirs, key=theirs.__getitem__))}"
    pairs = [(a, b) for a, b in combinations(theirs, 2) if theirs[a] != theirs[b]]
    agreeing = sum((ours[a] - ours[b]) * (theirs[a] - theirs[b]) > 0 for a, b in pairs)
    yield f"{agreeing} of {len(pairs)} pairs are in the same order"


def _claims(losses: Losses) -> dict[str, tuple[int, int]]:
    """What the paper says, and in how many of how many comparisons, one for each seed, it is so here."""
    width, depth = losses["width"], losses["depth"]
    terms = "KL, block output, embedding"
    both = (width, depth)
    claims = {
        "KL alone is the lowest of the paper's five": [
            lines[KL][seed] == min(lines[line][seed] for line in FIVE) for lines in both for seed in SEEDS
        ],
        "CLM + KL is the second": [
            sorted(FIVE, key=lambda line: lines[line][seed])[1] == "CLM + KL" for lines in both for seed in SEEDS
        ],
        "KL alone is below reverse KL alone": _below(both, KL, "reverse KL alone"),
        "after the deep cut, the block's output lowers the loss": _below([depth], "KL, block output", KL),
        "and the embedding beside it lowers it further": _below([depth], terms, "KL, block output"),
        "the MLP's input changes it by less than 0.005": [
            abs(a - b) < 0.005 for a, b in zip(depth[f"{terms}, MLP input"], depth[terms], strict=True)
        ],
        "third from last is below last to last": _below([depth], terms, f"{terms}, last to last"),
        "after a cut in width, hidden states lower the loss by less than 0.005": [
            with_terms > alone - 0.005 for with_terms, alone in zip(width[terms], width[KL], strict=True)
        ],
    }
    return {claim: (sum(found), len(found)) for claim, found in claims.items()}


def _below(cuts: Any, line: str, other: str) -> list[bool]:
    return [lines[line][seed] < lines[other][seed] for lines in cuts for seed in SEEDS]


def _finish(wanted: Wanted, losses: Losses, claims: dict[str, tuple[int, int]]) -> None:
    first, comparisons = claims["KL alone is the lowest of the paper's five"]
    means = {cut: {line: statistics.fmean(each) for line, each in lines.items()} for cut, lines in losses.items()}
    terms = "KL, block output, embedding"
    figures: dict[str, float] = {"kl_alone_first": first, "comparisons": comparisons}
    for cut, lines in means.items():
        figures[f"kl_alone_{cut}"] = round(lines[KL], 4)
        figures[f"kl_alone_above_lowest_of_five_{cut}"] = round(lines[KL] - min(lines[each] for each in FIVE), 4)
        figures[f"gain_over_clm_alone_{cut}"] = round(lines["CLM alone"] - lines[KL], 4)
        figures[f"gain_of_hidden_states_{cut}"] = round(lines[KL] - lines[terms], 4)
    training = wanted.training
    print(
        f"{len(SEEDS)} seeds, {training.tokens:,} tokens each in batches of {training.batch_size}, peak rate "
        f"{training.peak_learning_rate:g}, {wanted.validation_sequences} validation sequences, {wanted.dtype}, 1 thread"
    )
    print(f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}")
    targets = {"kl_alone_first": [">=", MOST]}
    print(json.dumps({"benchmark": "losses", "figures": figures, "targets": targets, "holds": first >= MOST}))


if __name__ == "__main__":
    main()
