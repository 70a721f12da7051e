"""A trigram model over tokens, backing off by interpolated Kneser-Ney: the bar that a real teacher must clear."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class _Level:
    """One n-gram order: sorted n-gram keys with their counts, and totals by context."""

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    context_keys: NDArray[np.int64]
    context_totals: NDArray[np.int64]
    context_types: NDArray[np.int64]
    discount: float

    @classmethod
    def of(cls, keys: NDArray[np.int64], counts: NDArray[np.int64], vocab_size: int) -> "_Level":
        context_keys, first = np.unique(keys // vocab_size, return_index=True)
        ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
        return cls(
            keys=keys,
            counts=counts,
            context_keys=context_keys,
            context_totals=np.add.reduceat(counts, first),
            context_types=np.diff(np.append(first, len(keys))),
            discount=ones / (ones + 2 * twos),
        )

    def interpolate(
        self, queries: NDArray[np.int64], vocab_size: int, lower: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """P(last | context) of each query, where `lower` holds the next lower order's probabilities."""
        count = _look_up(self.keys, self.counts, queries)
        total = _look_up(self.context_keys, self.context_totals, queries // vocab_size)
        types = _look_up(self.context_keys, self.context_types, queries // vocab_size)
        seen = np.maximum(total, 1)
        smoothed = np.maximum(count - self.discount, 0) / seen + self.discount * types / seen * lower
        return np.where(total > 0, smoothed, lower)


def trigram_loss(training: Tokens, validation: Tokens, vocab_size: int) -> float:
    """Mean cross-entropy in nats of the tokens of `validation` from its third on.

    Chen and Goodman (1999), interpolated Kneser-Ney with one discount per order, n1 / (n1 + 2 n2); lower orders
    count the distinct contexts of an n-gram instead of its occurrences.
    """
    trigrams = _Level.of(*np.unique(_keys(training, 3, vocab_size), return_counts=True), vocab_size)
    bigrams = _Level.of(*_continuations(trigrams.keys, vocab_size**2), vocab_size)
    unigram_keys, unigram_counts = _continuations(bigrams.keys, vocab_size)
    unigrams = np.ones(vocab_size)
    unigrams[unigram_keys] += unigram_counts  # One pseudo-count each, so that no token is impossible.
    unigrams /= unigrams.sum()

    probability = unigrams[validation[2:]]
    probability = bigrams.interpolate(_keys(validation[1:], 2, vocab_size), vocab_size, probability)
    probability = trigrams.interpolate(_keys(validation, 3, vocab_size), vocab_size, probability)
    return float(-np.log(probability).mean())


def _keys(tokens: Tokens, order: int, vocab_size: int) -> NDArray[np.int64]:
    """One integer for each n-gram, its first token in the highest digits."""
    num_grams = len(tokens) - order + 1
    keys = np.zeros(num_grams, dtype=np.int64)
    for offset in range(order):
        keys = keys * vocab_size + tokens[offset : offset + num_grams]
    return keys


def _continuations(keys: NDArray[np.int64], modulus: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The n-grams left when the first token is dropped, with the number of distinct tokens that preceded each."""
    shorter, counts = np.unique(keys % modulus, return_counts=True)
    return shorter, counts.astype(np.int64)


def _look_up(keys: NDArray[np.int64], values: NDArray[np.int64], queries: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[place] == queries, values[place], 0)
