"""The teacher as its student should be: computed by transformers in float64, without what was cut."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from nas.architecture import Architecture
from nas.compression.choose import Kept
from nas.families import Family


def compute_in_float64(model: Any, stack: ExitStack, channels: torch.Tensor | None = None) -> None:
    """Norms, routers and embedding scales in float64, where transformers has float32.

    Norms of the residual stream see the channels of the mask only, if there is one.
    """
    for path, module in model.named_modules():
        name = type(module).__name__
        if "Norm" in name and getattr(module, "weight", None) is not None:
            mask = None if ".q_" in path or ".k_" in path else channels
            stack.callback(module.register_forward_hook(_norm(module, mask)).remove)
        if hasattr(module, "embed_scale"):
            module.embed_scale = torch.tensor(float(module.embedding_dim) ** 0.5, dtype=torch.float64)
        if name.endswith("TopKRouter"):
            stack.callback(module.register_forward_hook(_router(model.config)).remove)


def _norm(module: Any, mask: torch.Tensor | None) -> Callable[..., Any]:
    name = type(module).__name__
    eps: Any = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    counts_from_one = "1P" in name or name.startswith("Gemma")

    def hook(_: Any, inputs: tuple[torch.Tensor], __: Any) -> Any:
        x = inputs[0]
        kept = torch.ones(x.shape[-1], dtype=torch.float64) if mask is None else mask
        if "LayerNorm" in name:
            x = x - (x * kept).sum(-1, keepdim=True) / kept.sum()
        mean_square = (x * kept).square().sum(-1, keepdim=True) / kept.sum()
        out: Any = x * torch.rsqrt(mean_square + eps) * (module.weight + counts_from_one)
        return (out if getattr(module, "bias", None) is None else out + module.bias) * kept

    return hook


def _router(config: Any, removed: torch.Tensor | None = None) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The router by the book: a removed expert has a logit of minus infinity."""

    def hook(module: Any, inputs: tuple[torch.Tensor], _: Any) -> tuple[torch.Tensor, ...]:
        logits = torch.nn.functional.linear(inputs[0].reshape(-1, module.hidden_dim), module.weight)
        if removed is not None:
            logits = logits.masked_fill(removed, -torch.inf)
        weights, chosen = logits.softmax(-1).topk(module.top_k, dim=-1)
        if getattr(config, "norm_topk_prob", True):
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, chosen

    return hook


@contextmanager
def masked(model: Any, family: Family, whole: Architecture, kept: Kept) -> Iterator[None]:
    """Within, the teacher computes without the layers, channels, heads, neurons and experts that were cut."""
    with ExitStack() as stack:
        channels = _mask(kept.channels, whole.hidden_size)
        compute_in_float64(model, stack, channels)
        # Where no norm comes first (OLMo 2), attention reads the residual stream itself.
        embedding = model.get_input_embeddings()
        stack.callback(embedding.register_forward_hook(lambda _, __, output: output * channels).remove)
        for i in range(whole.num_hidden_layers):
            _mask_layer(model, family, whole, kept, i, stack)
        yield


def _mask_layer(model: Any, family: Family, whole: Architecture, kept: Kept, i: int, stack: ExitStack) -> None:
    taps = family.taps
    block = model.get_submodule(taps.block.format(i=i))
    heads = _mask(kept.heads[i], whole.num_attention_heads).repeat_interleave(whole.head_dim)
    _masked_input(model.get_submodule(taps.heads_input_of.format(i=i)), heads, stack)
    attention = block.get_submodule("self_attn") if hasattr(block, "self_attn") else None
    if family.model_type == "olmo2" and attention is not None:
        groups = _mask(kept.groups[i], whole.num_key_value_heads).repeat_interleave(whole.head_dim)
        for norm, mask in ((attention.q_norm, heads), (attention.k_norm, groups)):
            stack.callback(norm.register_forward_hook(_norm(norm, mask)).remove)
    if taps.neurons_input_of is not None:
        neurons = _mask(kept.neurons[i], whole.intermediate_size)
        _masked_input(model.get_submodule(taps.neurons_input_of.format(i=i)), neurons, stack)
    if taps.experts is not None:
        experts = model.get_submodule(taps.experts.format(i=i))
        _remove_neurons(experts, kept.neurons[i], stack)
        removed = _mask(kept.experts[i], whole.num_experts) == 0
        stack.callback(block.mlp.gate.register_forward_hook(_router(model.config, removed)).remove)
    if i not in kept.layers:
        stack.callback(block.register_forward_hook(lambda _, inputs, __: inputs[0]).remove)


def _mask(kept: torch.Tensor, size: int) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.float64)
    mask[kept] = 1
    return mask


def _masked_input(module: Any, mask: torch.Tensor, stack: ExitStack) -> None:
    stack.callback(module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask,)).remove)


def _remove_neurons(experts: Any, kept: torch.Tensor, stack: ExitStack) -> None:
    """Zeroes the columns of the experts' down projections that belong to neurons which were cut."""
    original = experts.down_proj.data.clone()
    mask = torch.stack([_mask(row, experts.down_proj.shape[-1]) for row in kept])
    experts.down_proj.data *= mask[:, None, :]
    stack.callback(lambda: experts.down_proj.data.copy_(original))
