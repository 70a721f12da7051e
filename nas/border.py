"""The base of every type that crosses a border: REST, database JSON, job specs and results."""

from pydantic import BaseModel, ConfigDict


class Border(BaseModel):
    """Frozen, and closed to fields it does not know. Infinities and NaNs survive JSON as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
