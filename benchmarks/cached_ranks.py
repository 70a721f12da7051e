"""Do a teacher's cached answers rank candidates as the live teacher does? `python -m benchmarks.cached_ranks`

Retrains every candidate of the demo four times, logits only and all else equal: with the teacher live, with entries
sampled of its answers, with the largest of them, and live again with another seed. The last is the yardstick: no
teacher can be asked to agree with itself better than its seeds do.
"""

import json
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

from benchmarks.demo_runs import Demo, Record, Wanted, with_demo
from nas.distillation_spec import DistillationSpec

PER_TOKEN = 50
WAYS: dict[str, dict[str, Any]] = {
    "live": {},
    "sampled": {"targets": "sampled", "targets_per_token": PER_TOKEN},
    "top_k": {"targets": "top_k", "targets_per_token": PER_TOKEN},
    "other_seed": {"seed": 1},
}
ENOUGH = 0.95
"""The rank correlation with live from which on sampled answers may become the default of trials."""


def main() -> None:
    with_demo(measure, __doc__)


def measure(demo: Demo, record: Record) -> None:
    logits_only = DistillationSpec(hidden_states=())
    wanted = {
        way: [demo.wanted(each, distillation=logits_only, **settings) for each in demo.candidates()]
        for way, settings in WAYS.items()
    }
    record.all_of([each for several in wanted.values() for each in several], demo.run)
    losses = {way: [run.loss for run in record.all_of(several, demo.run)] for way, several in wanted.items()}
    Console(width=110).print(_table(wanted["live"], losses))
    figures: dict[str, Any] = {}
    for way in ("sampled", "top_k", "other_seed"):
        figures |= {f"{name}_{way}": value for name, value in _agreement(losses[way], losses["live"]).items()}
        told = (f"{name.replace('_', ' ')} {figures[f'{name}_{way}']}" for name in _agreement(losses[way], losses[way]))
        print(f"{way.replace('_', ' ')} and live: {', '.join(told)}")
    figures["same_winner"] = figures["same_winner_sampled"]
    _finish(wanted["live"], figures)


def _agreement(losses: Sequence[float], live: Sequence[float]) -> dict[str, Any]:
    differences = [loss - other for loss, other in zip(losses, live, strict=True)]
    return {
        "spearman": round(float(spearmanr(losses, live).statistic), 3),
        "kendall": round(float(kendalltau(losses, live).statistic), 3),
        "same_winner": losses.index(min(losses)) == live.index(min(live)),
        "mean_difference": round(statistics.fmean(differences), 4),
        "largest_difference": round(max(map(abs, differences)), 4),
    }


def _table(candidates: list[Wanted], losses: dict[str, list[float]]) -> Table:
    names = [way.replace("_", " ") for way in losses]
    table = Table("candidate", *names, title="loss after retraining, and rank", box=None)
    for number in sorted(range(len(candidates)), key=losses["live"].__getitem__):
        cells = [f"{several[number]:.4f}  {sorted(several).index(several[number]) + 1}" for several in losses.values()]
        table.add_row(candidates[number].architecture.label, *cells)
    return table


def _finish(wanted: list[Wanted], figures: dict[str, Any]) -> None:
    training = wanted[0].training
    print(
        f"{len(wanted)} candidates, {training.tokens:,} tokens each in batches of {training.batch_size}, peak rate "
        f"{training.peak_learning_rate:g}, {PER_TOKEN} draws or entries a token, {wanted[0].validation_sequences} "
        f"validation sequences, {wanted[0].dtype}, 1 thread"
    )
    print(f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}")
    targets = {"spearman_sampled": [">=", ENOUGH]}
    holds = figures["spearman_sampled"] >= ENOUGH
    print(json.dumps({"benchmark": "cached_ranks", "figures": figures, "targets": targets, "holds": holds}))


if __name__ == "__main__":
    main()
