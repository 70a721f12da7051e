"""Layer by layer, from memory and from disk, every family computes what transformers does in one go, bit for bit."""

import json
import weakref
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nas.compression.checkpoint import load_model
from nas.compression.kernels import kernels
from nas.compression.layerwise import Layer, Layers, LayersInMemory, LayersOnDisk
from nas.errors import TeacherError
from nas.model_folder import INDEX, WHOLE, ModelFolder, inspect_model_folder
from tests.nas.families.small import ALL, Variant, built
from tests.nas.families.test_checkpoints import save

CPU = torch.device("cpu")
TOKENS = torch.randint(0, 40, (5, 10), generator=torch.Generator().manual_seed(1))
BY_NAME = {str(variant): variant for variant in ALL}


@dataclass(frozen=True)
class Saved:
    """A variant in a folder: the whole model that transformers loads, and its layers one by one."""

    variant: Variant
    model: Any
    on_disk: LayersOnDisk


@pytest.fixture(params=ALL, ids=str, scope="module")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = save(request.param, tmp_path_factory.mktemp("saved"))
    return Saved(request.param, load_model(folder, CPU), LayersOnDisk(folder, CPU))


def in_memory(variant: Variant, model: torch.nn.Module) -> LayersInMemory:
    return LayersInMemory(model, variant.family, variant.architecture.num_hidden_layers)


def states_of(layers: Layers, inputs_BT: torch.Tensor) -> list[torch.Tensor]:
    """The residual stream before the first layer and after each."""
    states = [layers.embed(inputs_BT)]
    for i in range(layers.num_layers):
        states.append(layers.load(i)(states[-1]))
    return states


@torch.no_grad()
def at_once(model: Any, inputs_BT: torch.Tensor) -> torch.Tensor:
    logits_BTV: torch.Tensor = model(inputs_BT, use_cache=False).logits
    return logits_BTV


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_in_memory_layer_after_layer_is_the_model(variant: Variant) -> None:
    model = built(variant.config)
    layers = in_memory(variant, model)
    for inputs_BT in (TOKENS[:3], TOKENS[3:]):
        expected_BTV = at_once(model, inputs_BT)
        assert torch.equal(layers.logits(states_of(layers, inputs_BT)[-1]), expected_BTV)
        assert torch.equal(at_once(model, inputs_BT), expected_BTV)


def test_on_disk_every_layer_computes_what_it_does_in_the_loaded_model(saved: Saved) -> None:
    loaded, on_disk = in_memory(saved.variant, saved.model), saved.on_disk
    expected, found = states_of(loaded, TOKENS), states_of(on_disk, TOKENS)
    assert len(found) == saved.variant.architecture.num_hidden_layers + 1
    assert all(torch.equal(ours_BTD, theirs_BTD) for ours_BTD, theirs_BTD in zip(found, expected, strict=True))
    assert not any(torch.equal(before_BTD, after_BTD) for before_BTD, after_BTD in pairwise(found))
    assert torch.equal(on_disk.logits(found[-1]), loaded.logits(expected[-1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["gemma2-0", "gpt2-0", "mixtral-0"])
def test_weights_are_held_in_the_dtype_that_is_asked_for(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save(BY_NAME[name], tmp_path)
    chosen = kernels(folder.config, dtype) | ({"experts_implementation": "eager"} if dtype == torch.float64 else {})
    model: Any = AutoModelForCausalLM.from_pretrained(folder.path, dtype=dtype, **chosen).eval()
    on_disk = LayersOnDisk(folder, CPU, dtype)
    logits_BTV = on_disk.logits(states_of(on_disk, TOKENS)[-1])
    assert logits_BTV.dtype == dtype
    assert torch.equal(logits_BTV, at_once(model, TOKENS))


def test_on_disk_a_tied_head_is_not_another_than_the_embedding(tmp_path: Path) -> None:
    """It would be left out without a word, where the loaded model uses it."""
    folder = save(BY_NAME["gpt2-0"], tmp_path)
    stored = load_file(tmp_path / WHOLE)
    for name in ("same", "other"):
        head = stored["transformer.wte.weight"].clone()
        head[3, 5] += name == "other"
        save_file({**stored, "lm_head.weight": head}, tmp_path / WHOLE, metadata={"format": "pt"})
        folder = inspect_model_folder(tmp_path)
        if name == "same":
            assert LayersOnDisk(folder, CPU).num_layers == 4
    with pytest.raises(TeacherError, match="stores a head of its own where its config ties it to the embedding"):
        LayersOnDisk(folder, CPU)


# --- what is held -------------------------------------------------------------------------------------------


def test_on_disk_one_layer_is_held_at_a_time(saved: Saved) -> None:
    """Whoever holds on to the last one does not hold its weights."""
    layers, block = saved.on_disk, saved.variant.family.taps.block
    first = layers.load(0)
    weights = [weakref.ref(parameter) for parameter in first.submodule(block).parameters()]
    assert all(weight() is not None for weight in weights)
    layers.load(1)
    assert all(weight() is None for weight in weights)
    for use in (lambda: first(layers.embed(TOKENS)), lambda: first.submodule(block)):
        with pytest.raises(RuntimeError, match="this layer was let go when another was loaded"):
            use()


def in_two_files(folder: ModelFolder, is_in_layer: dict[str, bool]) -> ModelFolder:
    """The folder with its layers in one file, and all else in another."""
    stored = load_file(folder.path / WHOLE)
    file_of = {name: "layers.safetensors" if is_in_layer[name] else "ends.safetensors" for name in stored}
    for file in set(file_of.values()):
        save_file({name: stored[name] for name in stored if file_of[name] == file}, folder.path / file)
    (folder.path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    (folder.path / WHOLE).unlink()
    return inspect_model_folder(folder.path)


@pytest.mark.parametrize("name", ["gemma2-0", "gpt2-0", "gpt_neox-0"])
def test_embedding_and_head_are_read_once_and_layers_when_loaded(name: str, tmp_path: Path) -> None:
    variant = BY_NAME[name]
    table = variant.family.parameters
    is_in_layer = {n: parameter.in_layer for parameter in table for n, _ in parameter.tensors(variant.architecture)}
    folder = in_two_files(save(variant, tmp_path), is_in_layer)
    states = states_of(in_memory(variant, load_model(folder, CPU)), TOKENS)
    (tmp_path / "layers.safetensors").rename(tmp_path / "away")
    layers = LayersOnDisk(folder, CPU)
    assert torch.equal(layers.embed(TOKENS), states[0])
    (tmp_path / "away").rename(tmp_path / "layers.safetensors")
    (tmp_path / "ends.safetensors").unlink()
    assert torch.equal(layers.load(2)(states[2]), states[3])
    assert layers.logits(states[4]).shape == (*TOKENS.shape, 40)


# --- listening ----------------------------------------------------------------------------------------------


def inputs_of(layer: Layer, taps: list[str], states_BTD: torch.Tensor) -> dict[str, torch.Tensor]:
    """What enters the layer's taps when it runs."""
    inputs: dict[str, torch.Tensor] = {}

    def listen(tap: str) -> Any:
        return layer.submodule(tap).register_forward_pre_hook(lambda _, args: inputs.update({tap: args[0]}))

    handles = [listen(tap) for tap in taps]
    layer(states_BTD)
    for handle in handles:
        handle.remove()
    return inputs


def test_taps_are_modules_of_the_layer_and_are_heard_when_it_runs(saved: Saved) -> None:
    variant, taps = saved.variant, saved.variant.family.taps
    present = {name for name, _ in variant.family.tensors(variant.architecture)}
    listened = [norm for norm in taps.norms if f"{norm}.weight".format(i=2) in present]
    listened += [tap for tap in (taps.block, taps.heads_input_of, taps.neurons_input_of, taps.experts) if tap]
    loaded = in_memory(variant, saved.model)
    for tap in listened:
        assert loaded.load(2).submodule(tap) is saved.model.get_submodule(tap.format(i=2))
    states_BTD = loaded.embed(TOKENS)
    expected = inputs_of(loaded.load(2), listened, states_BTD)
    found = inputs_of(saved.on_disk.load(2), listened, states_BTD)
    assert found.keys() == expected.keys() == set(listened)
    assert all(torch.equal(found[tap], expected[tap]) for tap in listened)
    assert found[taps.block] is states_BTD


def test_a_layer_runs_for_states_of_any_shape_and_has_no_other_modules() -> None:
    variant = BY_NAME["mistral-0"]
    layer = in_memory(variant, built(variant.config)).load(1)
    states_BTD = torch.rand(4, 12, 24, dtype=torch.float64)
    # In a causal layer, what comes after a token is not seen.
    torch.testing.assert_close(layer(states_BTD)[:2, :7], layer(states_BTD[:2, :7]))
    with pytest.raises(AttributeError):
        layer.submodule("model.layers.{i}.self_attn.none")


@pytest.mark.parametrize("name", ["mixtral-0", "qwen3_moe-0"])
def test_a_config_that_asks_for_what_routers_say_changes_nothing(name: str) -> None:
    """As trainers of mixtures leave it in their checkpoints: transformers adds a loss, of what it caught of routers."""
    variant = BY_NAME[name]
    model = built({**variant.config, "output_router_logits": True})
    layers = in_memory(variant, model)
    logits_BTV = layers.logits(states_of(layers, TOKENS)[-1])
    assert torch.equal(logits_BTV, at_once(model, TOKENS))


def test_a_layer_that_fails_leaves_the_model_as_it_was() -> None:
    variant = BY_NAME["gpt2-0"]
    model = built(variant.config)
    layers = in_memory(variant, model)
    expected_BTV = at_once(model, TOKENS)
    with pytest.raises(RuntimeError):
        layers.load(0)(torch.zeros(2, 3, 24))
    assert torch.equal(at_once(model, TOKENS), expected_BTV)
