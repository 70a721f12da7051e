"""Model families as data: one table per family, and what follows from any of them."""

from nas.errors import TeacherError
from nas.families.family import Dimension, Family, Parameter, Select, Taps
from nas.families.llama import LLAMA

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA,)}


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


__all__ = ["FAMILIES", "Dimension", "Family", "Parameter", "Select", "Taps", "family_named"]
