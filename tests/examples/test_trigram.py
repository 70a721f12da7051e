"""The trigram model against a slow one written with dictionaries, from the definition."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from examples.demo.trigram import trigram_loss

VOCAB = 6


def discount(counts: Counter[tuple[int, ...]]) -> float:
    ones, twos = (sum(count == n for count in counts.values()) for n in (1, 2))
    return ones / (ones + 2 * twos)


class SlowKneserNey:
    """P(c | a, b) by Chen and Goodman's recursion."""

    def __init__(self, tokens: list[int]) -> None:
        grams = zip(tokens, tokens[1:], tokens[2:], strict=False)
        self.trigrams: Counter[tuple[int, ...]] = Counter(grams)
        self.bigrams: Counter[tuple[int, ...]] = Counter(gram[1:] for gram in self.trigrams)
        self.unigrams: Counter[tuple[int, ...]] = Counter(gram[1:] for gram in self.bigrams)

    def probability(self, context: tuple[int, ...], token: int) -> float:
        if not context:
            counts = {t: 1 + self.unigrams[(t,)] for t in range(VOCAB)}
            return counts[token] / sum(counts.values())
        grams = self.trigrams if len(context) == 2 else self.bigrams
        lower = self.probability(context[1:], token)
        following = {gram[-1]: count for gram, count in grams.items() if gram[:-1] == context}
        if not following:
            return lower
        total = sum(following.values())
        kept = max(following.get(token, 0) - discount(grams), 0) / total
        return kept + discount(grams) * len(following) / total * lower


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    generator = np.random.default_rng(0)
    sequence = [0, 1]
    for _ in range(300):  # Each token leans on the two before it.
        sequence.append(int((sequence[-1] * 2 + sequence[-2] + generator.choice([0, 0, 0, 1, 3])) % VOCAB))
    return sequence


def test_loss_equals_the_definition(tokens: list[int]) -> None:
    training, validation = tokens[:220], [*tokens[220:], 5, 5, 5]
    slow = SlowKneserNey(training)
    losses = [
        -math.log(slow.probability((a, b), c))
        for a, b, c in zip(validation, validation[1:], validation[2:], strict=False)
    ]
    found = trigram_loss(np.asarray(training), np.asarray(validation), VOCAB)
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_the_definition_is_a_distribution(tokens: list[int]) -> None:
    slow = SlowKneserNey(tokens)
    contexts: defaultdict[tuple[int, int], float] = defaultdict(float)
    for a in range(VOCAB):
        for b in range(VOCAB):
            for c in range(VOCAB):
                contexts[a, b] += slow.probability((a, b), c)
    assert all(total == pytest.approx(1.0, abs=1e-12) for total in contexts.values())
