"""Constraints on costs, given when somebody asks: `parameters<=1e9`."""

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nas.errors import BudgetError, SettingError
from nas.ranking import Standing

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*(?P<cost>[A-Za-z_]+)\s*(?P<relation>[<>]=?)\s*(?P<bound>[^\s<>=]+)\s*")

Costs = Mapping[str, float]
"""Of one candidate, by name."""


@dataclass(frozen=True)
class Constraint:
    """`cost` stands in `relation` to `bound`, a number above 0."""

    cost: str
    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.cost}{self.relation}{self.bound:,.12g}"

    def holds(self, costs: Costs) -> bool:
        return _COMPARE[self.relation](costs[self.cost], self.bound)

    def excess(self, costs: Costs) -> float:
        """How far the cost is on the wrong side, as a share of the bound; 0 where the constraint holds."""
        return 0.0 if self.holds(costs) else abs(costs[self.cost] - self.bound) / self.bound


def parse_constraint(text: str, names: Collection[str]) -> Constraint:
    """Raises SettingError for what is no constraint, or one on a cost that is not among `names`."""
    accepted = f"NAME<=NUMBER, or with >=, < or >; a number above 0, and a name of {', '.join(names)}"
    form = _FORM.fullmatch(text)
    if form is None:
        raise SettingError("where", text, "is no constraint", accepted)
    if form["cost"] not in names:
        raise SettingError("where", text, f"is on {form['cost']}, which is no cost of this search", accepted)
    try:
        bound = float(form["bound"])
    except ValueError as error:
        raise SettingError("where", text, f"has {form['bound']}, which is no number", accepted) from error
    if not (bound > 0 and math.isfinite(bound)):
        raise SettingError("where", text, f"has {form['bound']}, which is not above 0 and finite", accepted)
    return Constraint(form["cost"], form["relation"], bound)


def first_within(
    leaderboard: Sequence[Standing], costs: Mapping[int, Costs], constraints: Sequence[Constraint]
) -> Standing:
    """The first of the leaderboard within all constraints; `costs` are by candidate id, and some candidate has a rank.

    Raises BudgetError, which names the closest candidate, if none is.
    """
    ranked = [row for row in leaderboard if row.rank is not None]
    for row in ranked:
        if all(each.holds(costs[row.candidate_id]) for each in constraints):
            return row

    def off(row: Standing) -> float:
        return max(each.excess(costs[row.candidate_id]) for each in constraints)

    closest = min(ranked, key=off)
    own = costs[closest.candidate_id]
    broken = [f"{each.cost} {own[each.cost]:,.12g}" for each in constraints if not each.holds(own)]
    problem = f"leaves none of {len(ranked)} measured candidates (closest: {closest.architecture.label} with "
    accepted = "wider constraints, or a search of other shapes"
    given = " and ".join(map(str, constraints))
    raise BudgetError("where", given, f"{problem}{' and '.join(broken)})", accepted)
