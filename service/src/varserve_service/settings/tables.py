"""Settings that are tables: batching, XLA, bounds of inputs, loading, and limits of verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MIB = 2**20
GIB = 2**30
# What clocks, counters and gRPC can hold; checked at the start, not by the thread that counts.
DECADE = 315_360_000.0
MOST = 2**31 - 1


class Batching(BaseModel):
    """How the calls of one function are put together. Rows are counted along dimension 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rows: int = Field(ge=2, description="rows of one batch at most")
    max_delay: float = Field(
        0.0, ge=0, le=1, description="seconds that a first call waits for others"
    )
    allowed_rows: tuple[int, ...] = Field(
        (), description="sizes that a batch is filled up to; none: batches stay as they are"
    )
    max_waiting_rows: int = Field(4096, ge=1, description="rows that wait at once at most")

    @field_validator("allowed_rows")
    @classmethod
    def _ascending(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)) or any(size < 1 for size in sizes):
            raise ValueError(f"expected sizes from 1 on, each larger than the last, found {sizes}")
        return sizes

    @model_validator(mode="after")
    def _reaches_max_rows(self) -> Self:
        if self.allowed_rows and self.allowed_rows[-1] != self.max_rows:
            raise ValueError(
                f"expected the last of allowed_rows to be max_rows, {self.max_rows}, "
                f"found {self.allowed_rows[-1]}"
            )
        return self


class Xla(BaseModel):
    """A function that XLA compiles when its model is loaded, for inputs of known sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="sizes of dimension 0 to compile for, where that is of any size"
    )


class Bounds(BaseModel):
    """What one input of a function may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_rank: int = Field(0, ge=0, le=254, description="least number of dimensions")
    max_rank: int | None = Field(None, ge=0, le=254, description="largest number of dimensions")
    max_elements: int | None = Field(None, ge=0, description="elements at most")
    min_value: float | None = Field(None, description="least value of an element")
    max_value: float | None = Field(None, description="largest value of an element")


class Loading(BaseModel):
    """How one SavedModel is loaded, where that is not clear by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tags: tuple[str, ...] = Field(
        (), description="tags of the graph to load; none: the only one, or that for serving"
    )
    op_libraries: tuple[Path, ...] = Field(
        (), description="shared objects with operations of the model's own, loaded before it"
    )


Verb = Literal["list", "read", "summarize", "assign", "run", "inspect", "watch", "admin"]


class VerbLimit(BaseModel):
    """How much of one verb may be in progress at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int | None = Field(
        None,
        ge=1,
        description="calls of all callers; unset: by verb, from 8 (admin) to 10,000 (watch)",
    )
    calls_per_subject: int | None = Field(
        None, ge=1, description="calls of one caller; unset: half of calls"
    )
    bytes: int | None = Field(
        None, ge=1, description="bytes of bodies that arrive; unset: max_staging_bytes"
    )
    bytes_per_subject: int | None = Field(
        None, ge=1, description="bytes of one caller's bodies; unset: half of bytes"
    )
