"""Small random Llamas in float64, every parameter of them random, norms and biases included."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nas.architecture import Architecture
from nas.families.llama import LLAMA


def small_llama(*, tied: bool, biased: bool, seed: int = 0) -> tuple[LlamaForCausalLM, Architecture]:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=4,
        tie_word_embeddings=tied,
        attention_bias=biased,
        mlp_bias=biased,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.double().eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.uniform_(parameter, *((0.5, 1.5) if "norm" in name else (-0.4, 0.4)))
    return model, LLAMA.architecture(config.to_dict())


def tokens(num_sequences: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 40, (num_sequences, length), generator=torch.Generator().manual_seed(seed))
