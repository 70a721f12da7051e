"""Does what the paper says hold on the demo's teacher? `python -m benchmarks.paper_claims`

Five claims of arXiv 2407.14679 on which the defaults rest, each with the paper's numbers and ours. Three are read from
the kept record of an exhaustive search; for the other two, students of one shape are retrained over equal tokens. An
error is the standard error over three seeds, which order the text and draw random weights, and differences are told
within seeds. A loss is below another if it is so by more than two standard errors of the difference; two are equal if
they differ by no more than that, or by no more than 0.005 nats. A claim holds in part if some of what it says does.
"""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version

from rich.console import Console
from rich.table import Column, Table

from benchmarks.demo_runs import Demo, Record, Wanted, with_demo
from benchmarks.paper_claims.claim import Claim
from benchmarks.paper_claims.curves import Curves
from benchmarks.paper_claims.students import SEEDS, Students
from benchmarks.search_record.kept import read


def main() -> None:
    with_demo(measure, __doc__)


def measure(demo: Demo, record: Record) -> None:
    curves, students = Curves(read(), demo.teacher.architecture), Students.of(demo, record)
    claims = [*curves.claims(), *students.claims()]
    console = Console(width=120)
    console.print(_table(claims))
    console.print(curves.table())
    _finish(claims, curves.tokens, students.one)


def _table(claims: Sequence[Claim]) -> Table:
    title = "losses right after the cut -> after retraining, in nats per token"
    columns = Column("the claim", width=24), Column("the paper, its own data", width=34), "here", "holds"
    table = Table(*columns, title=title, show_lines=True)
    for claim in claims:
        table.add_row(claim.says, claim.paper, claim.ours, claim.verdict)
    return table


def _finish(claims: Sequence[Claim], record_tokens: int, wanted: Wanted) -> None:
    training = wanted.training
    print(
        f"{len(SEEDS)} seeds; record: {record_tokens:,} tokens; students: {training.tokens:,} tokens in batches of "
        f"{training.batch_size}, peak rate {training.peak_learning_rate:g}; {wanted.validation_sequences} validation "
        f"sequences, {wanted.dtype}, 1 thread"
    )
    print(f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}")
    figures = {name: round(figure, 4) for claim in claims for name, figure in claim.figures.items()}
    verdicts = [claim.verdict for claim in claims]
    figures |= {"claims_that_hold": verdicts.count("yes"), "claims_in_part": verdicts.count("in part")}
    targets = {"claims_that_hold": [">=", len(claims)]}
    holds = figures["claims_that_hold"] >= len(claims)
    print(json.dumps({"benchmark": "paper_claims", "figures": figures, "targets": targets, "holds": holds}))


if __name__ == "__main__":
    main()
