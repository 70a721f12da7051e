"""The text that a search works with, as a user names it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from pathlib import PurePath

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from nas.border import Border, Count, Number

TEXTS = "a .jsonl, .txt or .parquet file, a folder of them, or hf://datasets/ORG/NAME@COMMIT"
SOURCE_NAME = "[a-z0-9][a-z0-9_-]{0,62}"
MOST_SOURCES = 100


@dataclass(frozen=True)
class Text:
    """A text that a spec names, and how it is read.

    `field` is the spec's name for the path, and `key_field` for the text field, for errors. `config` and `split` are of
    a data set of the Hub.
    """

    field: str
    path: str
    text_field: str
    key_field: str = "data.text_field"
    config: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class Source:
    """What a part of the tokens comes from. Without a `validation` of its own, a part of `training` is held out."""

    name: str
    weight: float
    training: Text
    validation: Text | None = None


class SourceSpec(Border):
    """One of several texts."""

    path: str = Field(description=TEXTS)
    name: str | None = Field(
        default=None,
        pattern=f"^{SOURCE_NAME}$",
        description="1 to 63 lower-case letters, digits, dashes, underscores; left out, the last part of its path",
    )
    weight: Number = Field(default=1, gt=0, description="its share of the tokens, in proportion to the others, above 0")
    text_field: str | None = Field(
        default=None, min_length=1, description="the key or column of its text; left out, data.text_field"
    )
    config: str | None = Field(
        default=None, min_length=1, description="the configuration of a data set of the Hub; left out, its default"
    )
    split: str = Field(default="train", min_length=1, description="the split of a data set of the Hub")
    validation: str | None = Field(
        default=None, description=f"a text of its own to validate on, {TEXTS}; left out, a part of it is held out"
    )
    validation_split: str = Field(
        default="validation", min_length=1, description="the split of validation, where that is on the Hub"
    )

    @property
    def default_name(self) -> str:
        """The name it has, or what its path gives for one; that may be empty."""
        if self.name is not None:
            return self.name
        last = PurePath(self.path.partition("@")[0] if self.path.startswith("hf://") else self.path).stem
        return re.sub("[^a-z0-9_-]+", "-", last.lower()).strip("-_")[:63]


class DataSpec(Border):
    """The text to calibrate, retrain and validate on: `train`, or several `sources`."""

    sources: tuple[SourceSpec, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_SOURCES,
        description=f"in place of train, 1 to {MOST_SOURCES} texts, each with a path and a weight",
    )
    train: str | None = Field(default=None, validate_default=True, description=TEXTS)
    validation: str | None = Field(
        default=None,
        description=f"{TEXTS}, of which the split validation is read; left out, a part of train is held out",
    )
    validation_fraction: Number = Field(
        default=0.01, gt=0, lt=1, description="the share of documents held out where validation is left out, 0 to 1"
    )
    validation_sequences: Count = Field(
        default=512, gt=0, description="how many sequences the loss is measured on, at least 1, and 1 for each source"
    )
    text_field: str = Field(
        default="text", min_length=1, description="the key of the text in a .jsonl record, or its column"
    )
    sequence_length: Count = Field(default=4096, gt=1, description="tokens in a sequence, at least 2")
    prepared: str | None = Field(
        default=None, description="a folder that topiary prepare-data made of just this data; left out, it is tokenised"
    )

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, value: tuple[SourceSpec, ...] | None) -> tuple[SourceSpec, ...] | None:
        names = [source.default_name for source in value or ()]
        for source, name in zip(value or (), names, strict=True):
            if not name:
                raise ValueError(f"has {source.path}, whose path gives no name, and which has none")
            if names.count(name) > 1:
                raise ValueError(f"has two texts with the name {name}")
        return value

    @field_validator("train")
    @classmethod
    def _one_of_both(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "sources" in info.data and (value is None) == (info.data["sources"] is None):
            if value is None:
                raise PydanticKnownError("missing")
            raise ValueError("is given besides data.sources")
        return value

    @field_validator("validation")
    @classmethod
    def _of_train(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("sources") is not None:
            raise ValueError("is given besides data.sources, each of which may have a validation of its own")
        return value

    @field_validator("validation_sequences")
    @classmethod
    def _one_for_each(cls, value: int, info: ValidationInfo) -> int:
        if value < len(info.data.get("sources") or ()):
            raise ValueError(f"is fewer than the {len(info.data['sources'])} sources")
        return value

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources; `train` is one of that name."""
        if self.sources is not None:
            return tuple(self._source(number, each) for number, each in enumerate(self.sources))
        training = Text("data.train", self.train or "", self.text_field)
        validation = None
        if self.validation is not None:
            validation = Text("data.validation", self.validation, self.text_field, split="validation")
        return (Source("train", 1.0, training, validation),)

    def _source(self, number: int, given: SourceSpec) -> Source:
        field = f"data.sources.{number}"
        training = Text(
            field=f"{field}.path",
            path=given.path,
            text_field=given.text_field or self.text_field,
            key_field="data.text_field" if given.text_field is None else f"{field}.text_field",
            config=given.config,
            split=given.split,
        )
        if given.validation is None:
            return Source(given.default_name, given.weight, training)
        place, split = f"{field}.validation", given.validation_split
        validation = replace(training, field=place, path=given.validation, split=split)
        return Source(given.default_name, given.weight, training, validation)


def divided(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """`total` things divided by weight, in whole numbers and at least one for each; exact but for rounding."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [max(1, floor(each)) for each in exact]
    while sum(counts) != total:
        missing = [each - count for each, count in zip(exact, counts, strict=True)]
        if sum(counts) < total:
            counts[missing.index(max(missing))] += 1
        else:  # What went to the smallest is taken back from those that have most above their share.
            counts[min((i for i, count in enumerate(counts) if count > 1), key=missing.__getitem__)] -= 1
    return tuple(counts)
