"""How few tokens find the same winner? `python -m benchmarks.search_regret`

Replays every strategy, with its defaults, on draws from the kept record of an exhaustive search (its candidates, seeds
and validation sequences drawn anew) and on synthetic landscapes on which ranks move for longer than they do there.
Settings were chosen on draws of another seed (`--tuning` repeats them). Beside the strategies: what chance chooses,
what the order right after pruning chooses, and what stopping everyone at the same total chooses.
"""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.search_record.kept import read
from benchmarks.search_regret.landscapes import Landscape, of_record, synthetic
from benchmarks.search_regret.replay import Outcome, by_strategy, stopped_alike
from nas.strategy_spec import StrategyKind, StrategySpec

REPORTING, TUNING = 2024, 7
MOST_TOKENS, LEAST_IN_TOP_GROUP = 0.40, 0.95
DEFAULT: StrategyKind = "racing"
KINDS: tuple[StrategyKind, ...] = ("exhaustive", "halving", "racing")

Chooser = Callable[[Landscape, np.random.Generator], Outcome]


@dataclass(frozen=True)
class Found:
    """Over all draws: the share of the exhaustive tokens, how often the choice is in the top group, and what it costs.

    `regret` is the mean of how far the choice is above the best, in nats per token.
    """

    tokens_fraction: float
    tokens_95: float
    in_top_group: float
    regret: float
    worst: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="of each landscape (default: %(default)s)")
    parser.add_argument("--tuning", action="store_true", help="the draws on which settings were chosen")
    options = parser.parse_args()
    kept, random = read(), np.random.default_rng(TUNING if options.tuning else REPORTING)
    landscapes = {
        "record": [of_record(kept, random) for _ in range(options.draws)],
        "synthetic": [synthetic(random) for _ in range(options.draws)],
    }
    found = {name: _all_found(draws, random) for name, draws in landscapes.items()}
    console = Console(width=110)
    for name, of_landscape in found.items():
        top = np.array([draw.top_group().mean() for draw in landscapes[name]])
        group = f"{top.mean():.1%} of candidates in the top group (at most {top.max():.0%})"
        console.print(_table(f"{name}: {options.draws} draws, {group}", of_landscape))
    _finish(found, options.draws)


def _all_found(draws: list[Landscape], random: np.random.Generator) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for kind in KINDS:
        found[kind] = _found(draws, by_strategy(StrategySpec(kind=kind)), random)
    share = found[DEFAULT].tokens_fraction
    return found | {
        f"all stopped at {share:.0%}": _found(draws, lambda draw, _: stopped_alike(draw, share), random),
        "right after pruning": _found(draws, _zero_shot, random),
        "by chance": _found(draws, _by_chance, random),
    }


def _zero_shot(draw: Landscape, _: np.random.Generator) -> Outcome:
    return Outcome(0, int(np.argmin(draw.after_pruning_C)))


def _by_chance(draw: Landscape, random: np.random.Generator) -> Outcome:
    return Outcome(0, int(random.integers(len(draw.truth_C))))


def _found(draws: list[Landscape], choose: Chooser, random: np.random.Generator) -> Found:
    outcomes = [choose(draw, random) for draw in draws]
    whole = [draw.tokens_K[-1] * len(draw.truth_C) for draw in draws]
    shares = np.array([outcome.tokens / tokens for outcome, tokens in zip(outcomes, whole, strict=True)])
    chosen = list(zip(outcomes, draws, strict=True))
    regret = np.array([draw.truth_C[outcome.chosen] - draw.truth_C.min() for outcome, draw in chosen])
    return Found(
        tokens_fraction=float(shares.mean()),
        tokens_95=float(np.quantile(shares, 0.95)),
        in_top_group=float(np.mean([draw.top_group()[outcome.chosen] for outcome, draw in chosen])),
        regret=float(regret.mean()),
        worst=float(regret.max()),
    )


def _table(title: str, found: dict[str, Found]) -> Table:
    table = Table("", "tokens", "95th percentile", "in the top group", "regret", "worst", title=title, box=None)
    for name, each in found.items():
        shares = (f"{share:.1%}" for share in (each.tokens_fraction, each.tokens_95, each.in_top_group))
        table.add_row(name, *shares, f"{each.regret:.4f}", f"{each.worst:.4f}")
    return table


def _finish(found: dict[str, dict[str, Found]], draws: int) -> None:
    figures: dict[str, float] = {}
    for landscape, of_landscape in found.items():
        for name, each in of_landscape.items():
            key = f"{'stopped_alike' if name.startswith('all') else name.replace(' ', '_')}_{landscape}"
            figures[f"tokens_fraction_{key}"] = round(each.tokens_fraction, 4)
            figures[f"in_top_group_{key}"] = round(each.in_top_group, 4)
            figures[f"regret_{key}"] = round(each.regret, 5)
    most = {f"tokens_fraction_{DEFAULT}_{landscape}": MOST_TOKENS for landscape in found}
    least = {f"in_top_group_{DEFAULT}_{landscape}": LEAST_IN_TOP_GROUP for landscape in found}
    holds = all(figures[name] <= limit for name, limit in most.items())
    holds = holds and all(figures[name] >= limit for name, limit in least.items())
    targets = {name: ["<=", limit] for name, limit in most.items()}
    targets |= {name: [">=", limit] for name, limit in least.items()}
    print(f"{draws} draws each; the default is {DEFAULT}; Python {platform.python_version()}, numpy {np.__version__}")
    print(json.dumps({"benchmark": "search_regret", "figures": figures, "targets": targets, "holds": holds}))


if __name__ == "__main__":
    main()
