"""The text that a search works with, as a user names it."""

from pydantic import Field

from nas.border import Border, Count, Number


class DataSpec(Border):
    """The text to calibrate, retrain and validate on."""

    train: str = Field(description="a .jsonl or .txt file, or a folder of them")
    validation: str | None = Field(
        default=None, description="a .jsonl or .txt file, or a folder of them; left out, a part of train is held out"
    )
    validation_fraction: Number = Field(
        default=0.01, gt=0, lt=1, description="the share of documents held out where validation is left out, 0 to 1"
    )
    validation_sequences: Count = Field(
        default=512, gt=0, description="how many sequences the loss is measured on, at least 1"
    )
    text_field: str = Field(default="text", min_length=1, description="the key of the text in a .jsonl record")
    sequence_length: Count = Field(default=4096, gt=1, description="tokens in a sequence, at least 2")
