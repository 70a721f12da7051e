"""A decoder layer by layer: embeddings, each layer by itself, final norm and head; from memory or from disk.

What a layer is told beside the residual stream (attention masks, positions) is transformers' own doing: the decoder
runs as ever, with stand-ins for all its layers but one. B sequences, T tokens, D channels, V tokens of the vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from nas.compression.checkpoint import build_model, check_head, read_tensor
from nas.families import Family, Select
from nas.model_folder import ModelFolder

Step = Callable[..., torch.Tensor]
"""What a block computes: (states_BTD, and whatever transformers tells it) -> states_BTD."""


class Layer:
    """One decoder layer, ready to run: that at `position` of a model which is in evaluation mode.

    After `let_go` it holds no weights, and raises RuntimeError.
    """

    def __init__(self, model: torch.nn.Module, family: Family, position: int) -> None:
        self._model: Any = model
        self._family = family
        self._position = position

    @torch.no_grad()
    def __call__(self, states_BTD: torch.Tensor) -> torch.Tensor:
        """What the layer makes of the residual stream; any B and T. Hooks within the layer are called."""
        block = self.submodule(self._family.taps.block)

        def step(_: torch.Tensor, *told: Any, **told_by_name: Any) -> torch.Tensor:
            raise _Enough(block(states_BTD, *told, **told_by_name))

        # For their shape: what a decoder adds to embeddings, such as positions, goes no further than the stand-in.
        return _until_enough(self._model, self._family, {self._position: step}, inputs_embeds=states_BTD)

    def submodule(self, tap: str) -> torch.nn.Module:
        """The module of this layer that one of the family's taps names; AttributeError if there is none."""
        if self._model is None:
            raise RuntimeError("this layer was let go when another was loaded")
        found: torch.nn.Module = self._model.get_submodule(tap.format(i=self._position))
        return found

    def let_go(self) -> None:
        self._model = None


class Layers(Protocol):
    """A model's layers, to be run one after another; nothing needs a gradient."""

    @property
    def num_layers(self) -> int: ...

    def embed(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        """What enters the first layer, states_BTD."""

    def load(self, i: int) -> Layer:
        """The i-th layer; the one that was loaded before may be let go."""

    def logits(self, states_BTD: torch.Tensor) -> torch.Tensor:
        """What final norm and head make of what left the last layer, logits_BTV."""


class LayersInMemory(Layers):
    """The layers of a model in evaluation mode, which is as it was after each call."""

    def __init__(self, model: torch.nn.Module, family: Family, num_layers: int) -> None:
        self._model: Any = model
        self._family = family
        self._num_layers = num_layers

    @property
    def num_layers(self) -> int:
        return self._num_layers

    @torch.no_grad()
    def embed(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        def step(states_BTD: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            raise _Enough(states_BTD)

        return _until_enough(self._model, self._family, {0: step}, input_ids=inputs_BT)

    def load(self, i: int) -> Layer:
        return Layer(self._model, self._family, i)

    @torch.no_grad()
    def logits(self, states_BTD: torch.Tensor) -> torch.Tensor:
        with _standing_in(self._model, self._family, {0: lambda *_, **__: states_BTD}):
            output = self._model(inputs_embeds=states_BTD, **_options(self._family))
        logits_BTV: torch.Tensor = output.logits
        return logits_BTV


class LayersOnDisk(Layers):
    """The layers of a checkpoint, of which one is in memory at a time, beside the embedding, final norm and head.

    Each is the layer of a model that has no other, built by transformers; no code of the folder is run. Weights are
    held in `dtype`. Raises TeacherError as `check_head` does.
    """

    def __init__(self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        check_head(folder)
        self._folder = folder
        self._device = device
        self._dtype = dtype
        ends = self._build(0, folder.architecture.vocab_size, lambda selection: not selection.parameter.in_layer)
        ends.set_submodule(_blocks(folder.family), torch.nn.ModuleList([_StandIn(_hand_on)]))
        self._ends = LayersInMemory(ends, folder.family, 1)
        self._loaded: Layer | None = None

    @property
    def num_layers(self) -> int:
        return self._folder.architecture.num_hidden_layers

    def embed(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        return self._ends.embed(inputs_BT)

    def load(self, i: int) -> Layer:
        """The i-th layer, read anew; the one that was loaded before is let go."""
        if self._loaded is not None:
            self._loaded.let_go()
        # No vocabulary: it is of no use to a layer, and could take more than all of its weights.
        model = self._build(i, 1, lambda selection: selection.parameter.in_layer)
        self._loaded = Layer(model, self._folder.family, 0)
        return self._loaded

    def logits(self, states_BTD: torch.Tensor) -> torch.Tensor:
        return self._ends.logits(states_BTD)

    def _build(self, i: int, vocab_size: int, is_read: Callable[[Select], bool]) -> torch.nn.Module:
        """The teacher with its i-th layer only; zero where nothing is to be read.

        Raises CheckpointError if that is not what transformers makes of it, which would be random weights.
        """
        family = self._folder.family
        shape = self._folder.architecture.resized(num_hidden_layers=1, vocab_size=vocab_size)
        config = family.config(self._folder.config, shape, (i,))
        if vocab_size < self._folder.architecture.vocab_size:  # These would be beyond it.
            config |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
        tensors = {
            each.name: read_tensor(self._folder, each.source)
            if is_read(each)
            else torch.zeros(each.parameter.shape(shape), dtype=self._dtype)
            for each in family.selections(shape, (i,), lambda axis, layer, unit: unit)
        }
        return build_model(config, tensors, self._device, self._dtype, copy=False)


# --- stand-ins ----------------------------------------------------------------------------------------------


class _StandIn(torch.nn.Module):
    """What is in a block's place."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    def forward(self, states_BTD: torch.Tensor, *told: Any, **told_by_name: Any) -> torch.Tensor:
        return self._step(states_BTD, *told, **told_by_name)


class _Enough(Exception):
    """Carries out of a decoder what one of its layers made."""

    def __init__(self, states_BTD: torch.Tensor) -> None:
        self.states_BTD = states_BTD


def _until_enough(
    model: torch.nn.Module, family: Family, steps: dict[int, Step], **inputs: torch.Tensor
) -> torch.Tensor:
    """Runs the decoder up to the step that has enough, and returns what that carries."""
    with _standing_in(model, family, steps):
        try:
            model.get_decoder()(**inputs, **_options(family))  # type: ignore[operator]
        except _Enough as enough:
            return enough.states_BTD
    raise RuntimeError("the decoder has run without the layer that was to stop it")


def _hand_on(states_BTD: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return states_BTD


def _options(family: Family) -> dict[str, bool]:
    """Where the config asks for what routers say, transformers would look for them in the stand-ins."""
    return {"use_cache": False, **({"output_router_logits": False} if family.has_experts else {})}


def _blocks(family: Family) -> str:
    """The name of the list of all blocks."""
    return family.taps.block.removesuffix(".{i}")


@contextmanager
def _standing_in(model: torch.nn.Module, family: Family, steps: dict[int, Step]) -> Iterator[None]:
    """Within, the blocks at these positions are these steps, and all others hand on what they get."""
    blocks: Any = model.get_submodule(_blocks(family))
    stand_ins = [_StandIn(steps.get(i, _hand_on)) for i in range(len(blocks))]
    model.set_submodule(_blocks(family), torch.nn.ModuleList(stand_ins))
    try:
        yield
    finally:
        model.set_submodule(_blocks(family), blocks)
