"""Does the learning rate change the ranks of candidates, and which is best? `python -m benchmarks.learning_rates`

Retrains candidates of the demo, over its own tokens, with half of its rate, its rate, and twice its rate, and compares
the mean losses and the ranks. The rate at the end goes with the peak.
"""

import json
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version

from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

from benchmarks.demo_runs import Demo, Ended, Record, Wanted, mean_and_error, with_demo

FACTORS = {"low": 0.5, "middle": 1.0, "high": 2.0}
NUM_CANDIDATES = 6
CLEARLY = 0.02
"""Nats per token by which a rate has to be better than the demo's own to replace it: more than seeds differ by."""


def main() -> None:
    with_demo(measure, __doc__)


def measure(demo: Demo, record: Record) -> None:
    wanted = {name: [_at(demo, factor, number) for number in range(NUM_CANDIDATES)] for name, factor in FACTORS.items()}
    record.all_of([each for several in wanted.values() for each in several], demo.run)
    runs = {name: record.all_of(several, demo.run) for name, several in wanted.items()}
    losses = {name: [run.loss for run in several] for name, several in runs.items()}
    Console(width=110).print(_table(runs, losses))
    means = {name: statistics.fmean(several) for name, several in losses.items()}
    best = min(means, key=means.__getitem__)
    figures = {
        "best_rate": runs[best][0].wanted.training.peak_learning_rate,
        "demo_rate": runs["middle"][0].wanted.training.peak_learning_rate,
        **{f"mean_loss_{name}": round(mean, 4) for name, mean in means.items()},
        "spearman_low": _spearman(losses["low"], losses["middle"]),
        "spearman_high": _spearman(losses["high"], losses["middle"]),
        "spearman_low_high": _spearman(losses["low"], losses["high"]),
        "winners": len({several.index(min(several)) for several in losses.values()}),
    }
    for name in ("low", "high"):
        tau = kendalltau(losses[name], losses["middle"]).statistic
        print(f"{name} and middle rate: Spearman's {figures[f'spearman_{name}']:.2f}, Kendall's {tau:.2f}")
    _finish(demo, runs["middle"][0].wanted, figures, means["middle"] - means[best] <= CLEARLY)


def _at(demo: Demo, factor: float, number: int) -> Wanted:
    """One of candidates spread over all of the demo's, with this times its rates."""
    candidates, trial = demo.candidates(), demo.spec.trial
    return demo.wanted(
        candidates[number * len(candidates) // NUM_CANDIDATES],
        peak_learning_rate=float(f"{factor * trial.peak_learning_rate:.2g}"),
        min_learning_rate=float(f"{factor * trial.min_learning_rate:.2g}"),
    )


def _spearman(some: Sequence[float], others: Sequence[float]) -> float:
    return round(float(spearmanr(some, others).statistic), 3)


def _table(runs: dict[str, list[Ended]], losses: dict[str, list[float]]) -> Table:
    rates = [f"{several[0].wanted.training.peak_learning_rate:g}" for several in runs.values()]
    table = Table("candidate", "pruned", *rates, title="loss after retraining, and rank, by peak rate", box=None)
    for number, run in enumerate(runs["middle"]):
        cells = [f"{several[number]:.3f}  {sorted(several).index(several[number]) + 1}" for several in losses.values()]
        table.add_row(run.wanted.architecture.label, f"{run.curve[0].loss:.3f}", *cells)
    table.add_row("mean", "", *(f"{statistics.fmean(several):.3f}" for several in losses.values()))
    table.add_row("over the demo's own", "", *(_over(several, losses["middle"]) for several in losses.values()))
    return table


def _over(losses: list[float], middle: list[float]) -> str:
    """The mean difference within candidates, which differ by more than rates do."""
    return "" if losses is middle else mean_and_error([a - b for a, b in zip(losses, middle, strict=True)])


def _finish(demo: Demo, wanted: Wanted, figures: dict[str, float], holds: bool) -> None:
    training = wanted.training
    print(
        f"{NUM_CANDIDATES} candidates, {training.tokens:,} tokens each in batches of {training.batch_size}, one seed, "
        f"{wanted.validation_sequences} validation sequences, {wanted.dtype}, 1 thread"
    )
    print(f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}")
    figures["gain_over_demo_rate"] = round(
        figures["mean_loss_middle"] - min(figures[f"mean_loss_{name}"] for name in FACTORS), 4
    )
    targets = {"gain_over_demo_rate": ["<=", CLEARLY]}
    print(json.dumps({"benchmark": "learning_rates", "figures": figures, "targets": targets, "holds": holds}))


if __name__ == "__main__":
    main()
