"""Scores against a plain float64 recomputation, and planted structures that must survive."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from nas.architecture import Architecture
from nas.compression.data import Batch
from nas.compression.importance import Scores, calibrate
from nas.compression.prune import choose
from nas.errors import CheckpointError
from nas.families.llama import LLAMA
from tests.nas.compression.small_llama import small_llama, tokens


def score(model: LlamaForCausalLM, architecture: Architecture, *, micro_batch_size: int = 8) -> Scores:
    inputs = tokens(6, 10)
    return calibrate(model, LLAMA, architecture, Batch(inputs, inputs), micro_batch_size=micro_batch_size)


def recorded(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Inputs of every o_proj and down_proj, outputs of the layers' norms, and the residual stream, all samples."""
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for i, layer in enumerate(model.model.layers):
        for name, module in (("heads", layer.self_attn.o_proj), ("neurons", layer.mlp.down_proj)):
            handles.append(
                module.register_forward_hook(
                    lambda _, inputs, __, key=f"{name}{i}": seen.__setitem__(key, inputs[0].double())
                )
            )
        for name, module in (("first", layer.input_layernorm), ("second", layer.post_attention_layernorm)):
            handles.append(
                module.register_forward_hook(
                    lambda _, __, output, key=f"{name}{i}": seen.__setitem__(key, output.double())
                )
            )
    with torch.no_grad():
        stream = model.model(tokens(6, 10), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    for i, state in enumerate(stream):
        seen[f"stream{i}"] = state.double()
    return seen


def l2_over_samples_of_mean_over_tokens(values: torch.Tensor) -> list[float]:
    """One unit after the other, by the definition."""
    scores = []
    for unit in range(values.shape[-1]):
        means = [sum(abs(float(x)) for x in sample[:, unit]) / len(sample) for sample in values]
        scores.append(sum(mean**2 for mean in means) ** 0.5)
    return scores


def test_scores_equal_a_plain_recomputation() -> None:
    model, architecture = small_llama(tied=False, biased=True)
    scores, seen = score(model, architecture), recorded(model)
    channels = torch.zeros(architecture.hidden_size, dtype=torch.float64)
    for i in range(architecture.num_hidden_layers):
        head_outputs = seen[f"heads{i}"].unflatten(-1, (architecture.num_attention_heads, architecture.head_dim))
        norms = head_outputs.square().sum(-1).sqrt()
        expected = {"heads": norms, "neurons": seen[f"neurons{i}"]}
        for name, values in expected.items():
            found = getattr(scores, name)[i].tolist()
            assert found == pytest.approx(l2_over_samples_of_mean_over_tokens(values), rel=1e-6)
        for norm in ("first", "second"):
            channels += torch.tensor(l2_over_samples_of_mean_over_tokens(seen[f"{norm}{i}"]), dtype=torch.float64)
    assert scores.channels.tolist() == pytest.approx(channels.tolist(), rel=1e-6)


def test_block_influence_equals_its_definition() -> None:
    model, architecture = small_llama(tied=False, biased=True)
    scores, seen = score(model, architecture), recorded(model)
    # transformers lists the final state after the last norm, so the last block is not in its list.
    for i in range(architecture.num_hidden_layers - 1):
        before, after = seen[f"stream{i}"], seen[f"stream{i + 1}"]
        cosines = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        assert scores.layers[i].item() == pytest.approx(1 - cosines.mean().item(), abs=1e-7)


def test_batch_size_does_not_change_the_scores() -> None:
    model, architecture = small_llama(tied=True, biased=False)
    one, six = score(model, architecture, micro_batch_size=1), score(model, architecture, micro_batch_size=6)
    for name, values in vars(one).items():
        torch.testing.assert_close(values, getattr(six, name), rtol=1e-6, atol=1e-9)


def test_planted_neuron_survives() -> None:
    model, architecture = small_llama(tied=True, biased=False)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[13] *= 50
    kept = choose(score(model, architecture), architecture, architecture.model_copy(update={"intermediate_size": 1}))
    assert kept.neurons[2].tolist() == [13]


def test_planted_head_survives() -> None:
    model, architecture = small_llama(tied=True, biased=False)
    # The heads of a group share their values. One that attends sharply to single tokens keeps the values' norm;
    # the others, with queries of zero, average them away.
    with torch.no_grad():
        query = model.model.layers[1].self_attn.q_proj.weight.unflatten(0, (6, 4))
        for head in (0, 2, 3, 4):
            query[head] = 0
        query[1] *= 30
        query[5] *= 30
    kept = choose(score(model, architecture), architecture, architecture.model_copy(update={"num_attention_heads": 2}))
    assert kept.heads[1].tolist() == [1, 5]


def test_planted_channel_survives() -> None:
    model, architecture = small_llama(tied=True, biased=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 17] *= 40
    kept = choose(score(model, architecture), architecture, architecture.model_copy(update={"hidden_size": 6}))
    assert 17 in kept.channels.tolist()


def test_planted_layer_survives() -> None:
    model, architecture = small_llama(tied=True, biased=False)
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                weight *= 3 if i == 2 else 0.01
    kept = choose(score(model, architecture), architecture, architecture.model_copy(update={"num_hidden_layers": 1}))
    assert kept.layers == (2,)


def test_scores_survive_their_file(tmp_path: Path) -> None:
    model, architecture = small_llama(tied=True, biased=False)
    scores = score(model, architecture)
    scores.save(tmp_path / "scores.safetensors")
    loaded = Scores.load(tmp_path / "scores.safetensors")
    assert all(torch.equal(values, getattr(loaded, name)) for name, values in vars(scores).items())


def test_damaged_scores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match=r"scores\.safetensors: cannot be read"):
        Scores.load(tmp_path / "scores.safetensors")
