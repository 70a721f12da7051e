"""Which sizes go together: constraints as data, which hold for one shape or for arrays of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Multiple:
    """`field` is a multiple of `of`."""

    field: str
    of: str

    @property
    def fields(self) -> tuple[str, ...]:
        return self.field, self.of

    def holds(self, sizes: Mapping[str, Any]) -> Any:
        return sizes[self.field] % sizes[self.of] == 0

    def __str__(self) -> str:
        return f"{self.field} as a multiple of {self.of}"


@dataclass(frozen=True)
class Product:
    """`field` is the product of `factors`, if the Architecture's flag `when` is set or there is none."""

    field: str
    factors: tuple[str, ...]
    when: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return self.field, *self.factors

    def holds(self, sizes: Mapping[str, Any]) -> Any:
        if self.when is not None and not sizes[self.when]:
            return True
        return sizes[self.field] == prod(sizes[factor] for factor in self.factors)

    def __str__(self) -> str:
        return f"{self.field} as {' x '.join(self.factors)}"


Constraint = Multiple | Product

HEAD_DIM_FOLLOWS = Product("hidden_size", ("num_attention_heads", "head_dim"))
"""For families whose config has no head_dim: transformers divides hidden_size by the heads."""
OWN_KEYS_AND_VALUES = Product("num_key_value_heads", ("num_attention_heads",))
"""For families without key-value groups."""
