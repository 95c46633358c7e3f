"""What tables of options are made of: their base class and kinds of numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
PositiveCount = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Options(BaseModel):
    """Base of every options table: unknown keys and values of another type are refused, also when set later."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, strict=True, allow_inf_nan=False)
