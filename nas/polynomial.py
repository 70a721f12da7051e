"""Polynomials in the sizes of an architecture: one expression that counts one shape, or millions at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
LARGEST = 2**62
"""Costs are below it, so that arrays hold them and sums of two."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Polynomial:
    """A sum of products of named sizes with whole coefficients.

    `terms` maps the sorted names of a product to its coefficient; the empty product is the constant term.
    """

    terms: Mapping[tuple[str, ...], int]

    @classmethod
    def constant(cls, value: int) -> "Polynomial":
        return cls({(): value} if value else {})

    @classmethod
    def size(cls, name: str) -> "Polynomial":
        return cls({(name,): 1})

    def __add__(self, other: "Polynomial | int") -> "Polynomial":
        added = other if isinstance(other, Polynomial) else Polynomial.constant(other)
        names = [*self.terms, *(name for name in added.terms if name not in self.terms)]
        return Polynomial({name: self.terms.get(name, 0) + added.terms.get(name, 0) for name in names})

    def __mul__(self, other: "Polynomial | int") -> "Polynomial":
        factor = other if isinstance(other, Polynomial) else Polynomial.constant(other)
        product: dict[tuple[str, ...], int] = {}
        for names, coefficient in self.terms.items():
            for more, by in factor.terms.items():
                key = tuple(sorted(names + more))
                product[key] = product.get(key, 0) + coefficient * by
        return Polynomial(product)

    def __sub__(self, other: "Polynomial") -> "Polynomial":
        return self + other * -1

    def at(self, sizes: Mapping[str, int]) -> int:
        """Its value, exactly."""
        return sum(coefficient * prod(sizes[name] for name in names) for names, coefficient in self.terms.items())

    def over(self, sizes: Mapping[str, Integers]) -> Integers:
        """Its values over arrays that broadcast; the caller sees to it that they stay below 2**63."""
        shape = np.broadcast_shapes(*(each.shape for each in sizes.values()))
        values = np.zeros(shape, dtype=np.int64)
        for names, coefficient in self.terms.items():
            term = np.full((), coefficient, dtype=np.int64)
            for name in names:
                term = term * sizes[name]
            values += term
        return values

    def along(self, name: str) -> "tuple[Polynomial, Polynomial]":
        """(intercept, slope): its value is intercept + slope * the size of `name`, neither holding that size.

        Raises ValueError where it is of a higher degree in that size.
        """
        if any(names.count(name) > 1 for names in self.terms):
            raise ValueError(f"of a higher degree in {name}")
        intercept = {names: by for names, by in self.terms.items() if name not in names}
        slope = {tuple(n for n in names if n != name): by for names, by in self.terms.items() if name in names}
        return Polynomial(intercept), Polynomial(slope)
