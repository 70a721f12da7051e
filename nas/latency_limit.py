"""A budget of measured latency: which shapes a table says are fast enough."""

from dataclasses import dataclass
from pathlib import Path

from nas.architecture import Architecture
from nas.budget import LatencyBudget
from nas.errors import BudgetError
from nas.latency import LatencyTable, read_table


@dataclass(frozen=True)
class LatencyLimit:
    """At most `budget.max_milliseconds` for a forward pass, by `table`."""

    budget: LatencyBudget
    table: LatencyTable

    @property
    def text(self) -> str:
        """As in `measured milliseconds (prefill, 1 x 4,096 tokens) up to 40`."""
        what = f"{self.budget.phase}, {self.table.batch_size} x {self.table.context:,} tokens"
        return f"measured milliseconds ({what}) up to {self.budget.max_milliseconds:,g}"

    def milliseconds(self, architecture: Architecture) -> float:
        """Raises SpecError for a shape with a block that the table has no time for."""
        return self.table.milliseconds(architecture, self.budget.phase)

    def too_slow(self, num_shapes: int, fastest: Architecture) -> BudgetError:
        """What to say when the fastest of all shapes is too slow."""
        milliseconds = self.milliseconds(fastest)
        nearest = f"{fastest.label} with {milliseconds:,.3g}"
        problem = f"leaves none of {num_shapes:,} shapes that the other limits leave ({self.text}; nearest: {nearest})"
        accepted = f"at least {milliseconds:,.3g}, or a wider space"
        return BudgetError("budget.latency.max_milliseconds", self.budget.max_milliseconds, problem, accepted)


def latency_limit(budget: LatencyBudget, teacher: Architecture) -> LatencyLimit:
    """Raises SpecError for a table that cannot be read, or is of another family."""
    return LatencyLimit(budget, read_table(Path(budget.table), teacher.family))
