"""The base of every type that crosses a border: REST, database JSON, job specs and results; the numbers users give."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Border(BaseModel):
    """Frozen, and closed to fields it does not know. Infinities and NaNs survive JSON as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def _not_bool(value: Any) -> Any:
    """Refuses `yes` and `true`, which pydantic would read as 1."""
    if isinstance(value, bool):
        raise ValueError("is not a number")
    return value


def _whole_number(value: Any) -> Any:
    """Lets `94e9` stand for a count: YAML reads it as text, JSON as a float. Larger ones would be rounded."""
    if isinstance(value, str | float):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() and abs(number) < 2**53 else value
    return _not_bool(value)


Count = Annotated[int, BeforeValidator(_whole_number), Field(lt=2**63)]
"""Whole, and such that databases hold it."""
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
"""Finite."""
