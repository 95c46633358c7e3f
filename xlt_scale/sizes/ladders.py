"""The ladders of sizes that a run can name, read from the TOML files beside this one. Needs no torch."""

import tomllib
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xlt_scale.config_files import validate
from xlt_scale.sizes.model_size import ModelSize

Pretraining = Literal["encoder", "encoder-decoder", "decoder", "encoder-decoder from a decoder", "none"]


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Declaration):
    """One size of a ladder, as its file declares it. The dimensions are `ModelSize`'s.

    Attributes:
        fields: of its configuration, added to those of the ladder.
        alternatives: further published checkpoints of the same shape.
        published: what its publisher says of its parameters.
        notes: what sets it apart from the others of its ladder.
        unverified: facts that no source was found for; 'shape' = its configuration.
    """

    model_type: str = ""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int = 0
    head_size: int = 0
    intermediate_size: int
    vocab_size: int = 0
    num_position_slots: int | None = None
    sliding_window: int = 0
    fields: dict[str, Any] = Field(default_factory=dict)
    hub_name: str = ""
    alternatives: list[str] = Field(default_factory=list)
    published: str = ""
    notes: str = ""
    unverified: list[str] = Field(default_factory=list)


class Ladder(_Declaration):
    """Sizes of one architecture, and what is known of all of them.

    Attributes:
        family: its name.
        about: what it is, in a sentence.
        pretraining: what its members were trained as.
        unpadded: whether it runs on real tokens only; the start-up check of a run decides (modeling/self_check.py).
        why_padded: why not, where it does not.
        num_languages: of the pre-training data; 0 = not published.
        languages: which they are, or what is published of them.
        mostly_english: whether more than half of the data is English.
        confounded: what changes together with size, or sets the ladder apart from others.
        fields: of all its configurations.
        sources: of what is stated here: what for -> where it stands.
        unverified: facts that no source was found for.
    """

    family: str
    about: str
    model_type: str
    pretraining: Pretraining
    unpadded: bool
    why_padded: str = ""
    licence: str = ""
    tokenizer: str
    num_languages: int = 0
    languages: str
    mostly_english: Literal["yes", "no", "unknown"] = "unknown"
    vocab_size: int = 0
    num_position_slots: int = 0
    fields: dict[str, Any] = Field(default_factory=dict)
    confounded: list[str] = Field(default_factory=list)
    sources: dict[str, str] = Field(default_factory=dict)
    unverified: list[str] = Field(default_factory=list)
    sizes: dict[str, Member] = Field(min_length=1)

    @model_validator(mode="after")
    def _reason_where_padded(self) -> "Ladder":
        if self.unpadded == bool(self.why_padded):
            raise ValueError("why_padded says why unpadded is false, and nothing where it is true")
        return self


def _load(text: str, place: str) -> Ladder:
    ladder: Ladder = validate(Ladder, tomllib.loads(text), place)
    return ladder


def _size(name: str, ladder: Ladder, member: Member) -> ModelSize:
    slots = member.num_position_slots
    model_type = member.model_type or ladder.model_type
    return ModelSize(
        name=name,
        model_type=model_type,
        num_layers=member.num_layers,
        hidden_size=member.hidden_size,
        num_heads=member.num_heads,
        intermediate_size=member.intermediate_size,
        vocab_size=member.vocab_size or ladder.vocab_size,
        num_position_slots=ladder.num_position_slots if slots is None else slots,
        hub_name=member.hub_name,
        further_fields={**ladder.fields, **member.fields},
        family=ladder.family,
        num_key_value_heads=member.num_key_value_heads,
        head_size=member.head_size,
        sliding_window=member.sliding_window,
    )


_FILES = ("micro", "xlmr", "eurobert", "mmbert", "mdeberta", "rembert", "mt5", "umt5", "t5gemma", "qwen3", "gemma3")

_FOLDER = resources.files("xlt_scale.sizes").joinpath("ladders")
_LADDERS = [_load(_FOLDER.joinpath(f"{file}.toml").read_text(encoding="utf-8"), f"{file}.toml") for file in _FILES]

LADDERS: dict[str, Ladder] = {ladder.family: ladder for ladder in _LADDERS}
"""Every ladder by its family's name, in the order of the tables."""

SIZES: dict[str, ModelSize] = {
    name: _size(name, ladder, member) for ladder in _LADDERS for name, member in ladder.sizes.items()
}
"""Every size of every ladder by name."""
