"""Forward passes of models with random weights, timed as wholes and in parts.

On a GPU the marks between parts are CUDA events of one stream, so gaps in which the device waits for the CPU belong to
the part in which they arise, and sums stay whole. That path has not run on a GPU yet.
"""

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from nas.compression.kernels import kernels, parse_config
from nas.cost import Phase

_POOL = 1_000_003
"""Random numbers that weights are filled with, over and over; a prime, so that rows differ."""


# --- models -------------------------------------------------------------------------------------------------


def random_model(config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A model of this Hugging Face config for evaluation, its weights random.

    Attention and experts run as transformers runs them by itself. Nothing refers to the model in a circle, so its
    memory is free once the caller lets go of it.
    """
    chosen: dict[str, Any] = {**kernels(config, dtype)}
    # transformers would draw every weight anew, which takes longer than all that is timed.
    with no_init_weights(), device:
        model: Any = AutoModelForCausalLM.from_config(parse_config(config), dtype=dtype, **chosen).eval()
    model.tie_weights()
    _fill(model, dtype, device)
    return model


def _fill(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Matrices at random, so that routers spread tokens over experts; norms at 1 and biases at 0."""
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(device, dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                for piece in parameter.view(-1).split(_POOL):
                    piece.copy_(pool[: len(piece)])
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


# --- passes -------------------------------------------------------------------------------------------------


class Passes:
    """Forward passes of one phase, each with the cache as it was before the first.

    Prefill is one pass over batch_size x context tokens into an empty cache; decode is one more token for each
    sequence, with the keys and values of `context` tokens in the cache. Only the logits of the last token are
    computed, as for generating text. `learned_positions` is how many a model has, 0 where they are not learned.
    """

    def __init__(
        self,
        model: Any,
        phase: Phase,
        *,
        batch_size: int,
        context: int,
        learned_positions: int = 0,
    ) -> None:
        device = next(model.parameters()).device
        self._model = model
        self._positions_BT: torch.Tensor | None = None
        self._cache: Any = None
        vocabulary, generator = model.config.vocab_size, torch.Generator().manual_seed(0)
        self._inputs_BT = torch.randint(vocabulary, (batch_size, context), generator=generator).to(device)
        if phase == "decode":
            self._cache = self()
            self._inputs_BT = self._inputs_BT[:, -1:].contiguous()
            # Learned positions may end with the context; which one is looked up makes no difference in time.
            position = min(context, learned_positions - 1) if learned_positions else context
            self._positions_BT = torch.full((batch_size, 1), position, device=device)

    def cache_before(self) -> Any:
        """The cache that a pass goes on from. A pass puts new tensors in place of the old ones, which stay."""
        if self._cache is None:
            return None
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        return cache

    @torch.no_grad()
    def __call__(self, cache: Any = None) -> Any:
        """The cache after a pass that goes on from `cache`."""
        output = self._model(
            self._inputs_BT,
            past_key_values=cache,
            position_ids=self._positions_BT,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.past_key_values


@dataclass(frozen=True)
class Effort:
    """How often a pass is repeated: `warm_up` times for nothing, then until both of the others are reached."""

    warm_up: int
    repetitions: int
    seconds: float


def time_passes(
    passes: Passes, effort: Effort, parts: Iterable[torch.nn.Module], device: torch.device
) -> list[list[float]]:
    """For each repetition, the milliseconds between marks: before the pass, before and after each part, after it."""
    marks = _Marks(device)
    hooks: list[Any] = []
    for part in parts:
        hooks += [part.register_forward_pre_hook(marks.set), part.register_forward_hook(marks.set)]

    def once() -> list[float]:
        cache = passes.cache_before()
        marks.wait()
        marks.set()
        passes(cache)
        marks.set()
        return marks.take()

    try:
        for _ in range(effort.warm_up):
            once()
        times: list[list[float]] = []
        begun = time.perf_counter()
        while len(times) < effort.repetitions or time.perf_counter() - begun < effort.seconds:
            times.append(once())
    finally:
        for hook in hooks:
            hook.remove()
    return times


class _Marks:
    """Moments of a pass: of the CPU, or, where the device works for itself, events in its stream."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._moments: list[Any] = []

    def set(self, *_: object) -> None:
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._moments.append(event)
        else:
            self._moments.append(time.perf_counter())

    def wait(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()

    def take(self) -> list[float]:
        """Milliseconds between each mark and the next; no mark is left."""
        self.wait()
        pairs = zip(self._moments, self._moments[1:], strict=False)
        times = [before.elapsed_time(after) if self._is_cuda else (after - before) * 1e3 for before, after in pairs]
        self._moments = []
        return times
