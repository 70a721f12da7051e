"""Model families as data: one table per family, and what follows from any of them."""

from nas.errors import TeacherError
from nas.families.family import Family, Select, Taps
from nas.families.gemma import GEMMA2, GEMMA3_TEXT
from nas.families.gpt2 import GPT2
from nas.families.gpt_neox import GPT_NEOX
from nas.families.granite import GRANITE
from nas.families.llama import LLAMA
from nas.families.mistral import MISTRAL
from nas.families.moe import MIXTRAL, QWEN3_MOE
from nas.families.nemotron import NEMOTRON
from nas.families.olmo2 import OLMO2
from nas.families.parameter import Dimension, Parameter, Span
from nas.families.phi3 import PHI3
from nas.families.qwen import QWEN2, QWEN3
from nas.families.smollm3 import SMOLLM3
from nas.families.stablelm import STABLELM
from nas.families.starcoder2 import STARCODER2

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3_TEXT, PHI3, NEMOTRON, OLMO2, GRANITE, SMOLLM3, STARCODER2,
        STABLELM, GPT_NEOX, GPT2, MIXTRAL, QWEN3_MOE,
    )
}  # fmt: skip


def family_named(model_type: object) -> Family:
    """The table for a Hugging Face `model_type`; raises TeacherError listing the supported ones."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise TeacherError(
            "teacher",
            model_type,
            "is not a supported model_type",
            "a folder whose model_type is " + ", ".join(FAMILIES),
        )
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Dimension", "Family", "Parameter", "Select", "Span", "Taps", "family_named"]
