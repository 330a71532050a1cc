"""The contract: what a landed row must satisfy, by stream and column."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mlops_pipelines.errors import UserError
from mlops_pipelines.spec import Column, Expression, Model, Name, Number, PositiveDuration, Share, Size
from mlops_pipelines.yaml_source import read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ColumnType = Literal["string", "int", "float", "bool", "timestamp"]

# Stands for a value of a sensitive column wherever values are shown.
MASKED = "•••"

# Written by the intake itself, for every stream.
RESERVED_COLUMNS = frozenset({"day", "known_at", "file_digest", "file_row"})


OnFail = Literal["quarantine", "halt"]


class Bounds(Model):
    """A lowest and a highest figure, one of them at least."""

    min: Number | None = Field(None, description="Lowest figure that passes.")
    max: Number | None = Field(None, description="Highest figure that passes.")

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class ColumnBatch(Model):
    """What the values of one column of a file must satisfy together; a file that breaks it is refused."""

    missing_at_most: Share | None = Field(None, description="Share of missing values.")
    others_at_most: Share | None = Field(
        None, description="Share of values that are not in `one_of`, whose rows pass."
    )
    distinct_at_least: Share | None = Field(
        None, description="Different values as a share of all: a burst of one value has few."
    )
    mean: Bounds | None = Field(None, description="Mean of the values.")
    median: Bounds | None = Field(None, description="Median of the values.")
    std: Bounds | None = Field(None, description="Standard deviation of the values.")


class ColumnRule(Model):
    """What the values of one column must satisfy. Missing values are judged by `nullable` alone."""

    type: ColumnType = Field(
        description="`float` means finite; `timestamp` is UTC, and one without a zone is taken as UTC."
    )
    nullable: bool = Field(False, description="Whether a value may be missing.")
    unit: str = Field("", description="Unit of the values, for people.")
    description: str = Field("", description="What the column says, for people.")
    min: int | float | datetime | None = Field(None, description="Lowest value that passes.")
    max: int | float | datetime | None = Field(None, description="Highest value that passes.")
    one_of: tuple[str | int, ...] = Field((), description="The values that pass.")
    pattern: str | None = Field(
        None, description="Regular expression (Python) that matches the whole of each value."
    )
    sensitive: bool = Field(
        False, description="Whether the column holds personal or protected data: shown nowhere."
    )
    on_fail: OnFail = Field(
        "quarantine", description="Whether a value that breaks a rule rejects its row or halts its file."
    )
    batch: ColumnBatch | None = Field(None, description="Rules of all the values of a file together.")

    @field_validator("one_of", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(one, bool) for one in value):
            raise ValueError("one_of lists strings or whole numbers; true and false are neither")
        return value

    @field_validator("min", "max", mode="before")
    @classmethod
    def _a_bound(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a bound is a number or a time; true and false are neither")
        if not isinstance(value, str):
            return value
        try:
            return datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is neither a number nor a time in ISO 8601") from error

    @field_validator("min", "max")
    @classmethod
    def _in_utc(cls, value: int | float | datetime | None) -> int | float | datetime | None:
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a bound must be finite; leave it out instead")
        return value

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
            try:
                re.compile(_whole(value))
            except re.error as error:
                raise ValueError(
                    f"not a regular expression of a whole value: {error}; write flags as (?i:...)"
                ) from error
        return value

    @model_validator(mode="after")
    def _fits_the_type(self) -> Self:
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        bound_type = datetime if self.type == "timestamp" else (int, float)
        if bounds and self.type not in ("int", "float", "timestamp"):
            raise ValueError(f"min and max are for int, float and timestamp, not for {self.type}")
        if not all(isinstance(bound, bound_type) for bound in bounds):
            wanted = "a time, such as 2013-01-01T00:00:00Z" if self.type == "timestamp" else "a number"
            raise ValueError(f"min and max of a column of type {self.type} must be {wanted}")
        if self.min is not None and self.max is not None and self.min > self.max:  # type: ignore[operator]
            raise ValueError(f"min {self.min} is above max {self.max}")
        member = {"string": str, "int": int}.get(self.type)
        if self.one_of and (member is None or not all(isinstance(value, member) for value in self.one_of)):
            raise ValueError("one_of lists strings for a string column, or whole numbers for an int column")
        if self.pattern is not None and self.type != "string":
            raise ValueError(f"pattern is for string, not for {self.type}")
        if self.batch is not None:
            self._batch_fits(self.batch)
        return self

    @property
    def whole_pattern(self) -> str:
        """`pattern` as an expression that is found where it matches the whole text; "" without one."""
        return "" if self.pattern is None else _whole(self.pattern)

    def _batch_fits(self, batch: ColumnBatch) -> None:
        if batch.others_at_most is not None and not self.one_of:
            raise ValueError(
                "others_at_most is a share of the values that are not in one_of, which is missing"
            )
        if batch.missing_at_most is not None and not self.nullable:
            raise ValueError("missing_at_most is for a column that is nullable")
        if (batch.mean or batch.median or batch.std) and self.type not in ("int", "float"):
            raise ValueError(f"mean, median and std are for int and float, not for {self.type}")


def _whole(pattern: str) -> str:
    return rf"^(?:{pattern})\Z"


class Freshness(Model):
    """How old the newest row of a file may be when the file lands."""

    column: Column = Field(description="Timestamp column whose latest value counts.")
    within: PositiveDuration = Field(description="How long before the file landed it may lie.")


class FileRules(Model):
    """What a file must satisfy as a whole; one that breaks it is refused."""

    rows: Bounds | None = Field(None, description="Rows of the file.")
    fresh: Freshness | None = Field(None, description="How old the newest row may be.")


class RowRule(Model):
    """What the values of a row must satisfy together."""

    holds: Expression = Field(
        description="SQL expression over the row that must not be false; an unknown value passes."
    )
    on_fail: OnFail = Field(
        "quarantine", description="Whether a row that breaks it is rejected or halts its file."
    )


class StreamRules(Model):
    """The columns of one stream, as they are landed."""

    columns: dict[Column, ColumnRule] = Field(min_length=1, description="Rules by column.")
    rows: dict[Name, RowRule] = Field(
        default_factory=dict, description="Rules of a row's values together, by name."
    )
    file: FileRules | None = Field(None, description="Rules of a file as a whole.")

    @model_validator(mode="after")
    def _rules_fit_the_columns(self) -> Self:
        if self.file and self.file.fresh:
            rule = self.columns.get(self.file.fresh.column)
            if rule is None or rule.type != "timestamp":
                raise ValueError(f"file.fresh: {self.file.fresh.column} is no timestamp column of the stream")
        if self.rows:
            from mlops_pipelines.sql_expressions import judge_expressions

            types = {name: rule.type for name, rule in self.columns.items()}
            for name, judged in judge_expressions(
                {name: rule.holds for name, rule in self.rows.items()}, types
            ).items():
                if judged.kind != "number":
                    what = "; ".join(judged.problems) or "is no condition"
                    raise ValueError(f"rows.{name}: the expression {what}")
        return self

    @field_validator("columns")
    @classmethod
    def _not_reserved(cls, value: dict[str, ColumnRule]) -> dict[str, ColumnRule]:
        taken = sorted(RESERVED_COLUMNS & value.keys())
        if taken:
            raise ValueError(
                f"{', '.join(taken)}: the intake writes columns of this name itself; leave them out, or "
                f"rename them in the files (reserved: {', '.join(sorted(RESERVED_COLUMNS))})"
            )
        return value


class Contract(Model):
    """What the rows of every stream of a pipeline must satisfy to be taken in."""

    events: StreamRules = Field(description="Rules of the events.")
    labels: StreamRules = Field(description="Rules of the labels.")
    references: dict[Name, StreamRules] = Field(
        default_factory=dict, description="Rules of the references, by the reference's name."
    )
    reject_share_halts: Share = Field(
        0.10, description="Share of rejected rows above which a file is refused as a whole."
    )
    reject_rows_allowed: int = Field(
        10, ge=0, description="Rejected rows of one file that never halt it, whatever their share."
    )

    file_size_halts: Size = Field(
        10**9, description="Bytes of a file, unpacked, above which it is refused as a whole."
    )

    @field_validator("references")
    @classmethod
    def _streams_differ(cls, value: dict[str, StreamRules]) -> dict[str, StreamRules]:
        if taken := sorted({"events", "labels"} & value.keys()):
            raise ValueError(f"a reference cannot be called {' or '.join(taken)}")
        return value

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams: events, labels and the references."""
        return "events", "labels", *self.references

    def sensitive_columns(self, stream: str) -> frozenset[str]:
        """Columns of a stream whose values are masked wherever they are shown. Raises as `columns_of`."""
        return frozenset(name for name, rule in self.columns_of(stream).items() if rule.sensitive)

    def columns_of(self, stream: str) -> Mapping[str, ColumnRule]:
        """Rules by column of a stream. Raises as `rules_of`."""
        return self.rules_of(stream).columns

    def rules_of(self, stream: str) -> StreamRules:
        """All rules of a stream. Raises UserError if the contract has no such stream."""
        if stream not in self.streams:
            raise UserError(
                f"The contract has no stream {stream!r}", expected=f"one of {', '.join(self.streams)}"
            )
        return {"events": self.events, "labels": self.labels}.get(stream) or self.references[stream]


def load_contract(path: Path, *, alone: str | None = None) -> Contract:
    """The contract written in a YAML file.

    alone: a stream, if only that one is asked for: events and labels need not be there, as in a draft.
    Raises UserError that lists every problem as `FILE:LINE:COL path.to.field: what is wrong`.
    """
    source = read_yaml(path)
    problems = list(source.repeated)
    data = source.data
    if isinstance(data, dict) and (rules := {**(data.get("references") or {}), **data}.get(alone)):
        data = {"events": rules, "labels": rules, **data}
    try:
        contract = Contract.model_validate(data)
    except ValidationError as error:
        problems += [
            source.problem(_written_at(found["loc"]), found["msg"].removeprefix("Value error, "))
            for found in error.errors(include_url=False)
        ]
    if problems:
        raise UserError(
            "The contract is not valid:\n" + "\n".join(map(str, problems)),
            remedy="docs/contract.md, which describes every rule",
        )
    return contract


def _written_at(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """Place in the file; pydantic adds a step of its own for a problem with a key."""
    return tuple(step for step in loc if step != "[key]")
