"""What a user writes about one pipeline: typed, described, defaulted.

The models hold the shape and check each field by itself. `mlops_pipelines.spec_loading` reads them
from YAML and checks the fields against each other and the contract, naming file and line.
"""

from __future__ import annotations

import re
from datetime import date, time, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from mlops_pipelines.spec_wording import alternatives, in_plain_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetJsonSchemaHandler, ModelWrapValidatorHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

TILE = timedelta(hours=1)
"""Length of a feature tile; windows are whole tiles, or they could not be summed from them."""

# Names of this machine: what goes there leaves it by no wire.
LOCAL_HOSTS = ("localhost", "127.0.0.1")

_DURATION_PATTERN = r"^([0-9]{1,12}) *(s|m|h|d|w)$"
_DURATION_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
# A century: beyond it, dates minus a duration leave the calendar.
_LONGEST = timedelta(days=36525)
_SIZE_PATTERN = r"^([0-9]{1,15}) *(B|KB|MB|GB)$"
_SIZE_UNIT = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_HOURS_PATTERN = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"
_PERSISTS_PATTERN = r"^([0-9]{1,4}) of ([0-9]{1,4})$"
_DAY_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_FOLDER_PATTERN = rf"{_PART}(/{_PART})*"
_NEAR_FILE_PATTERN = rf"(\.\./)*({_PART}/)*[A-Za-z0-9][A-Za-z0-9_.-]*\.yaml"
_NEAR_FOLDER_PATTERN = rf"\.|\.\.(/\.\.)*|(\.\./)*{_FOLDER_PATTERN}"
_ALERTS_FILE_PATTERN = rf"({_PART}/)*[A-Za-z0-9][A-Za-z0-9_.-]*\.jsonl"
_VARIABLE_PATTERN = r"[A-Z_][A-Z0-9_]{0,127}"
_HOST_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_ADDRESS_PATTERN = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
# What a home holds already: a line of an alert in there would be taken for something else.
_FOLDERS_OF_A_HOME = ("dagster", "datasets", "feast", "keys", "mlflow", "pipelines")
_URL_PATTERN = rf"[a-z][a-z0-9+.-]*://(({_PART}(:[0-9]{{1,5}})?)(/{_PART})*|(/{_PART})+)"


def _matched(pattern: str, value: Any) -> re.Match[str] | None:
    # fullmatch, because Python's $ also matches before a trailing newline.
    return re.fullmatch(pattern, value) if isinstance(value, str) else None


def parse_duration(value: Any) -> timedelta:
    """Duration written as a whole number and a unit: `90s`, `15m`, `36h`, `3d`, `2w`; at most 36525d.

    Raises ValueError, naming the allowed units, for anything else.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif written := _matched(_DURATION_PATTERN, value):
        seconds = int(written[1]) * _DURATION_UNIT[written[2]]
    else:
        raise ValueError(
            f"{value!r} is not a duration; write a whole number and one of s, m, h, d, w, such as 36h"
        )
    if not 0 <= seconds <= _LONGEST.total_seconds():
        raise ValueError(f"{value!r} is not a duration between 0s and {_LONGEST.days}d")
    if seconds != int(seconds):
        raise ValueError(f"{value!r} is not a duration of whole seconds")
    return timedelta(seconds=int(seconds))


def format_duration(value: timedelta) -> str:
    """The shortest spelling in d, h, m or s that `parse_duration` reads back: 36 hours are `36h`."""
    seconds = int(value.total_seconds())
    for unit in ("d", "h", "m"):
        size = _DURATION_UNIT[unit]
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def parse_size(value: Any) -> int:
    """Bytes, written as a whole number and a unit: `500KB`, `64MB`, `2GB` (powers of ten).

    A bare whole number is bytes. Raises ValueError, naming the allowed units, for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    written = _matched(_SIZE_PATTERN, value)
    if written is None:
        raise ValueError(
            f"{value!r} is not a size; write a whole number and one of B, KB, MB, GB, such as 64MB"
        )
    return int(written[1]) * _SIZE_UNIT[written[2]]


def format_size(value: int) -> str:
    """The shortest spelling `parse_size` reads back: 64000000 bytes are `64MB`."""
    for unit in ("GB", "MB", "KB"):
        if value and value % _SIZE_UNIT[unit] == 0:
            return f"{value // _SIZE_UNIT[unit]}{unit}"
    return f"{value}B"


def parse_persists(value: Any) -> tuple[int, int]:
    """`2 of 3` as (2, 3): the condition holds in m of the last n partitions, 1 <= m <= n.

    Raises ValueError for anything else.
    """
    pair = value
    if written := _matched(_PERSISTS_PATTERN, value):
        pair = int(written[1]), int(written[2])
    if not (isinstance(pair, tuple) and len(pair) == 2 and 1 <= pair[0] <= pair[1]):
        raise ValueError(f"{value!r} is not of the form 'm of n' with 1 <= m <= n, such as '2 of 3'")
    return pair


def parse_hours(value: Any) -> tuple[time, time]:
    """Hours of every day, UTC, written as `22:00-06:00`. Raises ValueError for anything else."""
    if isinstance(value, tuple):
        return value
    if not _matched(_HOURS_PATTERN, value):
        raise ValueError(f"{value!r} is not of the form 'HH:MM-HH:MM' (UTC), such as '22:00-06:00'")
    start, end = (time.fromisoformat(part) for part in value.split("-"))
    if start == end:
        raise ValueError(f"{value!r} begins and ends in the same minute; policy.mode: observe starts nothing")
    return start, end


def parse_day(value: Any) -> date:
    """Day written as YYYY-MM-DD. Raises ValueError for anything else, other ISO spellings included."""
    if _matched(_DAY_PATTERN, value):
        return date.fromisoformat(value)
    if type(value) is date:  # a datetime is a date too, and would lose its time
        return value
    raise ValueError(f"{value!r} is not a day; write YYYY-MM-DD, such as 2013-01-31")


def parse_landing(value: str) -> str:
    """A folder below the pipeline's own, or a URL of a folder that fsspec understands.

    Raises ValueError for anything else. It repeats no URL: there may be a secret in it.
    """
    if "://" not in value:
        if _matched(_FOLDER_PATTERN, value):
            return value
        raise ValueError(
            f"{value!r} is not a folder below the pipeline's own, such as landing/events, nor a URL, such as "
            "s3://bucket/landing/events; its parts start with a letter or digit"
        )
    protocol = value.partition("://")[0]
    if "@" in value or "?" in value or "#" in value:
        raise ValueError(
            "the URL has a user, a key or options in it; they come from the environment or from fsspec's "
            "configuration (allowed: PROTOCOL://BUCKET/FOLDER)"
        )
    if not _matched(_URL_PATTERN, value):
        raise ValueError(
            "the URL is not of the form PROTOCOL://BUCKET/FOLDER, such as s3://bucket/landing/events; its "
            "parts start with a letter or digit"
        )
    if protocol in ("file", "local") and not value.startswith(f"{protocol}:///"):
        raise ValueError(
            f"write {protocol}:///, and the folder from the root on, such as {protocol}:///srv/events"
        )
    from fsspec import available_protocols

    if protocol not in available_protocols():
        raise ValueError(f"fsspec knows no {protocol}://{alternatives(protocol, available_protocols())}")
    return value


def parse_alerts_file(value: str) -> str:
    """A file of the home, relative to it, that nothing else is kept in.

    Raises ValueError for another. It repeats none: the address of a webhook may stand there by mistake.
    """
    if not _matched(_ALERTS_FILE_PATTERN, value):
        raise ValueError(
            "is not a .jsonl file below the home, such as alerts.jsonl; parts start with a letter or digit"
        )
    folder = value.partition("/")[0]
    if folder in _FOLDERS_OF_A_HOME:
        raise ValueError(f"{folder}/ of the home holds other things; choose another folder, such as alerts/")
    return value


def _longer_than_nothing(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be longer than 0s")
    return value


def _one_as_list(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"{value!r} is neither a column nor a list of columns")
    return (value,) if isinstance(value, str) else value


def _written(kind: str, pattern: str, example: str) -> WithJsonSchema:
    # The kind names the type in the reference of the fields (docs/pipeline.md).
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example], "$comment": kind})


def _unrepeated(pattern: str, what: str) -> Callable[[Any], str]:
    """Takes a text of a pattern. Its error repeats nothing: a secret may stand there by mistake."""

    def check(value: Any) -> str:
        if not _matched(pattern, value):
            raise ValueError(f"is not {what}; what stands there is not repeated, for it may be a secret")
        return str(value)

    return check


def _unrepeated_list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("is not a list; what stands there is not repeated, for it may be a secret")
    return value


def _relative(kind: str, pattern: str, example: str) -> tuple[Any, ...]:
    def check(value: str) -> str:
        if not _matched(pattern, value):
            raise ValueError(f"{value!r} is not a {kind} relative to this file's folder, such as {example}")
        return value

    return AfterValidator(check), _written(kind, rf"^({pattern})$", example)


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration),
    _written("duration", _DURATION_PATTERN, "36h"),
]
PositiveDuration = Annotated[Duration, AfterValidator(_longer_than_nothing)]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=1),
    PlainSerializer(format_size),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": _SIZE_PATTERN, "examples": ["64MB"], "$comment": "size"}
    ),
]
Persistence = Annotated[
    tuple[int, int],
    BeforeValidator(parse_persists),
    PlainSerializer(lambda pair: f"{pair[0]} of {pair[1]}"),
    _written("m of n", _PERSISTS_PATTERN, "2 of 3"),
]
Hours = Annotated[
    tuple[time, time],
    BeforeValidator(parse_hours),
    PlainSerializer(lambda hours: "-".join(f"{one:%H:%M}" for one in hours)),
    _written("hours", _HOURS_PATTERN, "22:00-06:00"),
]
Day = Annotated[
    date,
    BeforeValidator(parse_day),
    PlainSerializer(date.isoformat),
    _written("day", _DAY_PATTERN, "2013-01-31"),
]

# YAML says what is a number and what is true or false; a text that looks like one is a mistake.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Flag = Annotated[bool, Strict()]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
# A share of 1 would leave no error budget to spend.
Objective = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0.0, lt=1.0)]


def _text(kind: str, pattern: str) -> tuple[Any, ...]:
    return StringConstraints(pattern=pattern), Field(json_schema_extra={"$comment": kind})


Name = Annotated[str, *_text("name", r"^[a-z][a-z0-9_]{0,62}$")]
Column = Annotated[str, *_text("column", r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
LandingFolder = Annotated[
    str,
    AfterValidator(parse_landing),
    _written("folder or URL", rf"^({_FOLDER_PATTERN}|{_URL_PATTERN})$", "landing/events"),
]
FileName = Annotated[str, *_text("file", r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.yaml$")]
SharedFile = Annotated[str, *_relative("file", _NEAR_FILE_PATTERN, "../shared/carriers.yaml")]
NearFolder = Annotated[str, *_relative("folder", _NEAR_FOLDER_PATTERN, "../flight_delays")]
Owner = Annotated[str, *_text("owner", r"^(team:.+|[^@\s]+@[^@\s]+\.[^@\s]+)$")]
Dotted = Annotated[str, *_text("module:name", r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
AlertsFile = Annotated[
    str, AfterValidator(parse_alerts_file), _written("file", rf"^({_ALERTS_FILE_PATTERN})$", "alerts.jsonl")
]
Variable = Annotated[
    str,
    BeforeValidator(
        _unrepeated(
            _VARIABLE_PATTERN,
            "the name of an environment variable: capital letters, digits and underscores, such as "
            "SLACK_WEBHOOK",
        )
    ),
    _written("variable", rf"^{_VARIABLE_PATTERN}$", "SLACK_WEBHOOK"),
]
Host = Annotated[
    str,
    BeforeValidator(_unrepeated(_HOST_PATTERN, "a host, such as smtp.example.org")),
    _written("host", rf"^{_HOST_PATTERN}$", "smtp.example.org"),
]
Address = Annotated[
    str,
    BeforeValidator(_unrepeated(_ADDRESS_PATTERN, "an e-mail address, such as mlops@example.org")),
    _written("e-mail address", rf"^{_ADDRESS_PATTERN}$", "mlops@example.org"),
]
Expression = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    Field(json_schema_extra={"$comment": "SQL expression"}),
]

Aggregate = Literal["mean", "sum", "count", "min", "max", "std", "distinct", "last"]
Kind = Literal["binary", "number", "category"]
Metric = Literal[
    "log_loss", "log_loss_skill", "brier", "brier_skill", "roc_auc", "average_precision",
    "expected_calibration_error",
]  # fmt: skip
NumberMetric = Literal["rmse", "mse", "mae", "r2"]
CategoryMetric = Literal[
    "log_loss", "log_loss_skill", "brier", "brier_skill", "roc_auc", "accuracy", "macro_f1",
    "expected_calibration_error",
]  # fmt: skip
Skill = Literal["log_loss_skill", "brier_skill", "r2"]
Loss = Literal["log_loss", "brier", "mse", "mae"]
Severity = Literal["critical", "warning", "info"]
Detector = Literal["process_control", "adwin", "page_hinkley", "kswin"]


def _as_declared(value: Any) -> Any:
    """A default as one would write it: a list of parts without what they leave out."""
    if not isinstance(value, list):
        return value
    return [
        {name: one for name, one in part.items() if one is not None} if isinstance(part, dict) else part
        for part in value
    ]


class Model(BaseModel):
    """Frozen, and closed: a field that is not declared is refused."""

    # The sentences repeat a value where that is safe: a URL may have a secret in it.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # Pydantic writes the default of a duration as ISO 8601 (P28D), which is not how it is read here.
        schema = handler(core_schema)
        written = cls.model_construct().model_dump(mode="json")
        for name, part in handler.resolve_ref_schema(schema).get("properties", {}).items():
            if "default" in part:
                part["default"] = _as_declared(written[name])
        return schema


class Partitions(Model):
    every: Literal["day"] = Field(default="day", description="Length of a partition of event time, UTC.")
    start: Day = Field(description="First partition.")
    end: Day | None = Field(default=None, description="Day after the last partition; open-ended if absent.")


_LANDING = "Landing folder: relative to the pipeline's folder in the home, or a URL that fsspec understands."


class Events(Model):
    landing: LandingFolder = Field(description=_LANDING)
    id: Column = Field(
        default="event_id",
        description="Column that names an event, unique for ever; held to that over the lateness bound, or "
        "the time that labels take where that is longer.",
    )
    time: Column = Field(description="Column of the event time.")
    decide_at: Column | None = Field(
        default=None, description="Column of the decision time; by default the event time."
    )
    arrived: Column | None = Field(
        default=None,
        description="Column of the time the landing system took the row in; by default the file's "
        "modification time.",
    )
    produced: Column | None = Field(
        default=None,
        description="Column of the time the producer made this version of the row; by default its arrival. "
        "Of rows that have one id and differ, the first stands; the others are quarantined.",
    )


class Labels(Model):
    landing: LandingFolder = Field(description=_LANDING)
    id: Column | None = Field(default=None, description="Column of the event's id; by default as in events.")
    value: Column = Field(description="Column of the outcome.")
    kind: Kind = Field(
        default="binary",
        description="What an outcome is: `binary`, true or false (or 1 and 0); `number`; `category`, a text.",
    )
    time: Column = Field(description="Column of the time the outcome came about.")
    arrived: Column | None = Field(
        default=None, description="Column of the arrival; by default the file's modification time."
    )
    publish_lag: Duration = Field(
        default=timedelta(0),
        description="How long after its own time an outcome can be used at the earliest.",
    )
    matures_after: PositiveDuration = Field(
        description="How long after the event time a label counts as overdue."
    )


class Reference(Model):
    landing: LandingFolder = Field(description=_LANDING)
    keys: tuple[Column, ...] = Field(min_length=1, description="Columns that name what a row is about.")
    time: Column | None = Field(
        default=None, description="Column of the row's own time; a reference without one is static."
    )
    arrived: Column | None = Field(
        default=None, description="Column of the arrival; by default the file's modification time."
    )
    publish_lag: Duration = Field(
        default=timedelta(0), description="How long after its own time a row can be used at the earliest."
    )


class View(Model):
    name: Name = Field(description="Name of the view; the names of its features begin with it.")
    key: Annotated[
        tuple[Column, ...], BeforeValidator(_one_as_list, json_schema_input_type=Column | list[Column])
    ] = Field(
        min_length=1,
        description="Event columns the view is looked up by, one or a list; matched with the keys of a "
        "reference in their order.",
    )
    of: str = Field(description="`events`, `labels` or the name of a reference.")
    aggregate: dict[Column, tuple[Aggregate, ...]] = Field(
        default_factory=dict,
        description="Aggregates by column, over each window: features `VIEW_COLUMN_AGGREGATE_WINDOW`. "
        "`last` is the last value known at the decision: one feature, `VIEW_COLUMN_last`.",
    )
    windows: tuple[PositiveDuration, ...] = Field(
        default=(),
        description="Whole hours; a window ends at the last full hour before the decision and counts what "
        "became known within it.",
    )
    last: tuple[Column, ...] = Field(
        default=(),
        description="Columns whose last value known at the decision is taken: features `VIEW_COLUMN_last`.",
    )
    within: PositiveDuration | None = Field(
        default=None,
        description="How old a last value may be, by its own time; by default as old as the longest "
        "window. Not for static references.",
    )
    max_age: PositiveDuration = Field(
        default=timedelta(days=1),
        description="How old the newest tile (without windows, the newest fact) may be at a decision; the "
        "check `freshness` fails where more than one decision in a hundred of a day finds it older.",
    )

    @property
    def keys(self) -> tuple[str, ...]:
        """Key columns of the event."""
        return self.key

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the view's features: windows first, then last values, as declared."""
        windows = [
            f"{self.name}_{column}_{aggregate}_{format_duration(window)}"
            for column, aggregates in self.aggregate.items()
            for aggregate in aggregates
            if aggregate != "last"
            for window in self.windows
        ]
        return (*windows, *(f"{self.name}_{column}_last" for column in (*self.lasting, *self.last)))

    @property
    def lasting(self) -> tuple[str, ...]:
        """Columns with `last` among their aggregates."""
        return tuple(column for column, aggregates in self.aggregate.items() if "last" in aggregates)


class PythonFeature(Model):
    function: Dotted = Field(
        description="Importable function: takes a pyarrow.Table of the columns, gives one value a row."
    )
    columns: tuple[Column, ...] = Field(min_length=1, description="The event's columns it sees.")
    type: Literal["number", "category"] = Field(default="number", description="What its values are.")


class Shared(Model):
    file: SharedFile = Field(description="The file, relative to this one's folder.")
    views: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="Which of its views; by default all."
    )


class Features(Model):
    from_event: dict[Name, Expression] = Field(
        default_factory=dict,
        description="Features by name: SQL scalar expressions over the event's columns.",
    )
    from_python: dict[Name, PythonFeature] = Field(
        default_factory=dict,
        description="Features by name: Python functions over the event's columns, where SQL does not reach.",
    )
    views: tuple[View, ...] = Field(
        default=(), description="Features looked up by key as of the decision time."
    )
    shared: tuple[Shared, ...] = Field(
        default=(), description="Views that stand in a file of their own, for several pipelines."
    )
    max_skew: float = Field(
        default=0.05,
        gt=0,
        description="How far, on average, a feature's values may be from those a fully fresh store would "
        "have given, in standard deviations (of categories: the share that differs); the check `skew`.",
    )


class Search(Model):
    low: Whole | Number | None = Field(default=None, description="Lowest value; whole if both ends are.")
    high: Whole | Number | None = Field(default=None, description="Highest value, included.")
    log: Flag = Field(
        default=False, description="Whether small values are looked at as closely as large ones."
    )
    choices: tuple[str | int | float | bool, ...] | None = Field(
        default=None, description="The values, where they are no range."
    )

    @property
    def values(self) -> tuple[str | int | float | bool, ...]:
        """The ends of the range that are given, or the choices."""
        return self.choices or tuple(end for end in (self.low, self.high) if end is not None)


class Tune(Model):
    space: dict[Column, Search] = Field(
        min_length=1, description="What to search, by parameter; it takes the place of `params` there."
    )
    trials: Whole = Field(default=20, ge=1, le=1000, description="Trials at most.")
    within: PositiveDuration = Field(
        default=timedelta(minutes=10), description="No further trial begins after this time."
    )
    folds: Whole = Field(
        default=3, ge=1, le=10, description="Validations of a trial: each on later days than it learned from."
    )


class Training(Model):
    window: PositiveDuration = Field(
        default=timedelta(days=365), description="How far back training rows reach."
    )
    holdout: PositiveDuration = Field(
        default=timedelta(days=28),
        description="Latest days kept for evaluation; at most a quarter of the days there are.",
    )
    refit: Flag = Field(default=True, description="Whether the promoted model is refitted on all rows.")
    min_rows: Whole = Field(
        default=1000, ge=100, description="Matured rows needed before a model is trained."
    )
    seed: Whole = Field(default=17, ge=0, le=2**31 - 1, description="Seed of everything random in training.")
    threads: Whole = Field(
        default=2, ge=1, le=256, description="Threads a model is trained with; part of its identity."
    )
    params: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="LightGBM parameters, n_estimators being the number of trees; or those of `trainer`.",
    )
    trainer: Dotted | None = Field(
        default=None, description="Class that learns in LightGBM's place (docs/experiments.md)."
    )
    tune: Tune | None = Field(
        default=None, description="Search for parameters before each model is trained (Optuna)."
    )


class SkillGate(Model):
    metric: Skill = Field(default="log_loss_skill", description="Skill score; of numbers `r2`.")
    at_least: Number = Field(
        default=0.0,
        lt=1,
        description="Lowest skill that passes: against the base rate, or the mean that was learned from.",
    )


class ChampionGate(Model):
    metric: Loss = Field(
        default="log_loss", description="Loss compared row by row; of numbers `mse` or `mae`."
    )
    not_worse_by: Number = Field(
        default=0.003,
        ge=0,
        description="Margin by which the candidate may be worse, in the unit of the loss; of numbers there "
        "is no default.",
    )
    confidence: Number = Field(
        default=0.90, gt=0.5, lt=1, description="One-sided confidence of the comparison."
    )
    min_days: Whole = Field(
        default=7,
        ge=1,
        description="Days the incumbent itself must have left unseen; else its unrefitted twin stands for "
        "it, where that has left more.",
    )
    underpowered: Literal["fail", "warn"] = Field(
        default="fail",
        description="The verdict where an equally good candidate would fail more often than pass; one surely "
        "worse by more than the margin fails.",
    )


class CalibrationGate(Model):
    metric: Literal["expected_calibration_error"] = Field(
        default="expected_calibration_error", description="Metric."
    )
    at_most: Number = Field(default=0.05, gt=0, le=1, description="Highest error that passes.")


class SlicesGate(Model):
    by: tuple[Column, ...] = Field(min_length=1, description="Event columns that cut the holdout.")
    metric: Literal["roc_auc", "average_precision", "log_loss_skill", "accuracy", "macro_f1", "r2"] = Field(
        default="roc_auc",
        description="Metric of each slice; of numbers `r2`. `accuracy` and `macro_f1` are of categories.",
    )
    min_rows: Whole = Field(default=500, ge=2, description="Slices with fewer rows are listed as too small.")
    too_small: Number = Field(
        default=0.5, ge=0, le=1, description="Largest share of the rows that may lie in slices too small."
    )
    at_least: Number = Field(default=0.5, lt=1, description="Lowest value that passes, for every slice.")


class LatencyGate(Model):
    p99_ms: Number = Field(
        default=5.0,
        gt=0,
        description="Highest 99th percentile of scoring one row, milliseconds of processor time; of the "
        "median by the clock as well.",
    )


class FairnessGate(Model):
    by: tuple[Column, ...] | None = Field(
        default=None,
        min_length=1,
        description="Event columns whose groups are to be treated alike; by default those that the contract "
        "marks as sensitive.",
    )
    demographic_parity: Number | None = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest difference, between two groups, of the share that is decided as positive.",
    )
    equalized_odds: Number | None = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest difference, between two groups, of the true or the false positive rate.",
    )
    min_rows: Whole = Field(default=500, ge=2, description="Groups with fewer rows are listed as too small.")
    too_small: Number = Field(
        default=0.5, ge=0, le=1, description="Largest share of the rows that may lie in groups too small."
    )


class LeakGate(Model):
    at_most: Number = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Largest share of the model's importance that one feature may carry.",
    )


class RobustnessGate(Model):
    drop: Number = Field(
        default=0.05,
        ge=0,
        le=1,
        description="How far the figure that slices are judged by may fall with a tenth of the values "
        "missing, or with small noise.",
    )


class AgreementGate(Model):
    at_least: Number = Field(
        default=0.7,
        le=1,
        description="Lowest concordance (Lin 1989) of the scores of the model that would serve with those of "
        "its twin, which was evaluated: 1 where they are the same.",
    )


class SizeGate(Model):
    at_most: Size = Field(default=10 * 10**6, description="Largest size of the model's text.")


class DataGate(Model):
    labelled: Number = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Smallest share of the training window's events, all of matured days, that have a label.",
    )


class Gates(Model):
    data: DataGate | None = Field(
        default=None, description="Trained on what was signed, when its labels were known."
    )
    skill: SkillGate | None = Field(default=None, description="Better than the base rate.")
    champion: ChampionGate | None = Field(default=None, description="Not worse than the incumbent.")
    calibration: CalibrationGate | None = Field(default=None, description="Scores that mean what they say.")
    slices: SlicesGate | None = Field(default=None, description="No group left behind.")
    fairness: FairnessGate | None = Field(default=None, description="Groups treated alike.")
    leak: LeakGate | None = Field(default=None, description="No single feature that knows it all.")
    robustness: RobustnessGate | None = Field(
        default=None, description="Little lost when the inputs are a little worse."
    )
    agreement: AgreementGate | None = Field(
        default=None, description="The refit scores as the twin does that was judged for it."
    )
    latency: LatencyGate | None = Field(default=None, description="Fast enough to serve.")
    size: SizeGate | None = Field(default=None, description="Small enough to be shipped.")


class BacklogTrigger(Model):
    rows: Whole = Field(default=1, ge=1, description="Rows waiting that start an ingest run.")
    bytes: Size = Field(default=64 * 10**6, description="Bytes waiting that start an ingest run.")
    age: Duration = Field(
        default=timedelta(minutes=15), description="Age of the oldest file that starts one."
    )
    at_most: Whole = Field(
        default=10**6,
        ge=1,
        description="Rows of a stream that one run takes in, to the end of a file; the next takes the rest.",
    )


class DriftTrigger(Model):
    method: Literal["psi"] = Field(
        default="psi", description="Population stability index on the champion's bins."
    )
    watch: Number = Field(default=0.10, gt=0, description="From here a partition is marked.")
    alarm: Number = Field(default=0.25, gt=0, description="From here a partition counts as drifted.")
    persists: Persistence = Field(default=(2, 3), description="m of the last n partitions must have drifted.")


class LabelsTrigger(Model):
    at_least: Whole = Field(
        ge=1, description="Matured labels since the last training set that ask for a retrain."
    )


class PerformanceTrigger(Model):
    metric: Skill = Field(default="log_loss_skill", description="Skill score; of numbers `r2`.")
    drop: Number = Field(
        gt=0, le=1, description="Drop against the champion's holdout that asks for a retrain."
    )
    over: PositiveDuration = Field(
        default=timedelta(days=14), description="Matured days the figure is taken over."
    )
    floor: Number | None = Field(
        default=None, le=1, description="Skill below which a retrain does not wait for the cooldown."
    )


class ConceptDriftTrigger(Model):
    detectors: tuple[Detector, ...] = Field(
        default=("process_control",),
        min_length=1,
        description="Any of them asks: `process_control` looks at what storms leave alone in each day, "
        "`adwin`, `page_hinkley` and `kswin` (of river) at all matured losses in turn.",
    )


class PredictionDriftTrigger(Model):
    alarm: Number = Field(
        default=0.25, gt=0, description="Unexplained index of the scores from which a partition counts."
    )
    persists: Persistence = Field(default=(2, 3), description="m of the last n partitions must have drifted.")


class StalenessTrigger(Model):
    at_least: Number = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of a partition's decisions that find a view older than its `max_age`.",
    )
    persists: Persistence = Field(default=(2, 3), description="m of the last n partitions must be stale.")


class ContractChangeTrigger(Model):
    pass


class ScheduleTrigger(Model):
    every: PositiveDuration = Field(
        description="Time since the last training set after which a retrain is asked for, whatever happened."
    )


class Triggers(Model):
    backlog: BacklogTrigger = Field(default_factory=BacklogTrigger, description="When events are taken in.")
    drift: DriftTrigger | None = Field(
        default=None, description="When inputs no longer look like the training set."
    )
    labels: LabelsTrigger | None = Field(default=None, description="When enough new outcomes are known.")
    performance: PerformanceTrigger | None = Field(default=None, description="When quality falls.")
    concept_drift: ConceptDriftTrigger | None = Field(
        default=None, description="When matured losses are not what the scores themselves expect."
    )
    prediction_drift: PredictionDriftTrigger | None = Field(
        default=None, description="When scores are no longer spread as over the training set."
    )
    staleness: StalenessTrigger | None = Field(
        default=None, description="When features are older than they should be."
    )
    contract_change: ContractChangeTrigger | None = Field(
        default=None,
        description="When rows that passed a changed contract have matured, and no training set has any.",
    )
    schedule: ScheduleTrigger | None = Field(default=None, description="When the last training set is old.")


class Budget(Model):
    retrains: Whole = Field(
        default=6,
        ge=1,
        description="Retrains that may start in a row; the bucket refills by as many over the period.",
    )
    per: PositiveDuration = Field(default=timedelta(days=30), description="The period.")


class Breaker(Model):
    after: Whole = Field(
        default=3, ge=1, description="Failed, rejected or rolled-back candidates in a row that open it."
    )
    backoff: PositiveDuration = Field(
        default=timedelta(days=1), description="How long it stays open at first; doubles."
    )


class Policy(Model):
    mode: Literal["act", "observe"] = Field(
        default="act",
        description="`observe` starts nothing; `mlops policy explain` says what it would do, "
        "`mlops backtest` what it would have done.",
    )
    cooldown: Duration = Field(default=timedelta(days=3), description="Pause after a retrain has finished.")
    quiet_hours: Hours | None = Field(
        default=None,
        description="Hours of every day (UTC) in which no retrain starts; one that runs goes on.",
    )
    budget: Budget = Field(default_factory=Budget, description="Token bucket of retrains.")
    priority: Whole = Field(
        default=0,
        ge=0,
        le=9,
        description="Of pipelines whose retrains wait for their turn, the greater number goes first.",
    )
    breaker: Breaker = Field(default_factory=Breaker, description="Stops retraining that keeps failing.")


class Cost(Model):
    false_positive: Number = Field(default=1.0, ge=0, description="Of deciding so, and it was not.")
    false_negative: Number = Field(default=1.0, ge=0, description="Of not deciding so, and it was.")
    true_positive: Number = Field(default=0.0, description="Of deciding so rightly; negative is a gain.")
    true_negative: Number = Field(default=0.0, description="Of not deciding so rightly; negative is a gain.")


class Decision(Model):
    at_least: float = Field(
        default=0.5, gt=0, lt=1, description="Score from which on an event is decided as positive."
    )
    cost: Cost | None = Field(default=None, description="What decisions cost, in whatever unit.")


class Watch(Model):
    over: PositiveDuration = Field(
        default=timedelta(days=14), description="How long the predecessor of a new champion scores beside it."
    )
    metric: Loss = Field(
        default="log_loss", description="Loss compared row by row; of numbers `mse` or `mae`."
    )
    worse_by: Number = Field(default=0.0, ge=0, description="How much worse the champion may be.")
    confidence: Number = Field(
        default=0.99,
        gt=0.5,
        lt=1,
        description="One-sided confidence with which it must be worse than that, at any one look; there is "
        "one a day.",
    )
    min_days: Whole = Field(default=3, ge=2, description="Matured days before the watch says anything.")


class Promotion(Model):
    approval: Literal["automatic", "human"] = Field(
        default="automatic",
        description="Who lets a candidate serve that passed its gates; `human` waits for `mlops approve`.",
    )
    four_eyes: Flag = Field(default=False, description="Whether two different people have to approve.")
    expires: PositiveDuration = Field(
        default=timedelta(days=14), description="How long a candidate waits for approval."
    )
    watch: Watch | None = Field(
        default=None, description="Roll a new champion back if it proves worse than the one before it."
    )


class Retention(Model):
    """Durations count back from the home's clock; None keeps for good."""

    predictions: PositiveDuration | None = Field(
        default=None,
        description="Predictions, by the day of their event, and all that their vectors were made of. The "
        "vectors themselves stay as long as `training.window` reaches back.",
    )
    models: PositiveDuration | None = Field(
        default=None,
        description="Models, by the end of their retrain. The champion, the one before it, one in flight, "
        "one that waits for people and those of kept predictions stay, with their training sets.",
    )
    datasets: PositiveDuration | None = Field(
        default=None,
        description="Training sets, by the moment they were made as of. The newest one and those of kept "
        "models stay, with the versions of the tables they are of.",
    )
    reports: PositiveDuration | None = Field(
        default=None, description="Reports on drift, performance and features, by their day."
    )
    landing: PositiveDuration | None = Field(
        default=None,
        description="Landed files that were taken in, by the day of their folder; they belong to their "
        "producers. One with a row that a kept prediction may go back to stays, and so does a URL's.",
    )


class Unrepeated(Model):
    """A part in whose place a secret may stand by mistake: an error does not repeat it."""

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, value: Any) -> Any:
        if isinstance(value, dict | cls):
            return value
        raise ValueError(
            "is not a mapping of keys to values; what stands there is not repeated, for it may be a secret"
        )


class Webhook(Unrepeated):
    url_env: Variable = Field(
        description="Environment variable that holds the address, which is a secret: https, but on this "
        "machine."
    )


class Email(Unrepeated):
    model_config = ConfigDict(serialize_by_alias=True)

    host: Host = Field(description="Mail server.")
    port: Whole = Field(default=587, ge=1, le=65535, description="Its port.")
    starttls: Flag = Field(
        default=True,
        description="Whether the connection is encrypted by STARTTLS and the server's certificate verified; "
        "false only on this machine.",
    )
    sender: Address = Field(alias="from", description="Who the message is from.")
    to: tuple[Address, ...] = Field(min_length=1, description="Who it is to.")
    username_env: Variable | None = Field(
        default=None, description="Environment variable that holds the user's name, where the server asks."
    )
    password_env: Variable | None = Field(
        default=None, description="Environment variable that holds the password."
    )


class Sink(Unrepeated):
    file: AlertsFile | None = Field(
        default=None, description="File below the home to which each alert is added, one JSON object a line."
    )
    webhook: Webhook | None = Field(default=None, description="Address that takes messages as Slack does.")
    email: Email | None = Field(default=None, description="Mail server, and who gets a message.")
    at_least: Severity | None = Field(
        default=None,
        description="Least severity that is sent there; by default `info` for a file, else `warning`.",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(one is not None for one in (self.file, self.webhook, self.email)) != 1:
            raise ValueError(
                "give one of file, webhook and email; what goes elsewhere too is a sink of its own"
            )
        return self

    @property
    def threshold(self) -> Severity:
        """The least severity that is sent there."""
        return self.at_least or ("warning" if self.file is None else "info")


class Alerts(Unrepeated):
    sinks: Annotated[tuple[Sink, ...], BeforeValidator(_unrepeated_list)] = Field(
        default=(Sink(file="alerts.jsonl"),), description="Where they go, each to all of these."
    )
    reopen_within: PositiveDuration = Field(
        default=timedelta(days=7),
        description="An incident of the same cause within this time after its end is opened again; later it "
        "is a new one.",
    )


class FreshnessSlo(Model):
    objective: Objective = Field(
        default=0.99, description="Share of a day's decisions that find every view as fresh as its `max_age`."
    )


class AvailabilitySlo(Model):
    objective: Objective = Field(
        default=0.999, description="Share of accepted events that get a prediction, once there is a champion."
    )


class LabelMaturitySlo(Model):
    objective: Objective = Field(
        default=0.95, description="Share of events whose label is known within `labels.matures_after`."
    )


class QualitySlo(Model):
    objective: Objective = Field(
        default=0.9, description="Share of matured days on which the skill is at or above the floor."
    )
    metric: Skill = Field(default="log_loss_skill", description="Skill score; of numbers `r2`.")
    floor: Number = Field(default=0.0, lt=1, description="Lowest skill of a good day.")


class Slos(Model):
    window: PositiveDuration = Field(
        default=timedelta(days=28), description="Days that the error budgets are of; 14d at least."
    )
    freshness: FreshnessSlo | None = Field(default=None, description="Features are fresh; of closed days.")
    availability: AvailabilitySlo | None = Field(
        default=None, description="Events are scored; of closed days."
    )
    label_maturity: LabelMaturitySlo | None = Field(
        default=None, description="Labels come in time; of matured days."
    )
    quality: QualitySlo | None = Field(
        default=None, description="What serves is better than the base rate; of matured days."
    )


class Exploration(Model):
    share: Number = Field(
        gt=0,
        le=0.5,
        description="Share of the events to be labelled whatever their score, chosen by a hash of their id; "
        "predictions say which (`explored`).",
    )


class Replay(Model):
    source: Dotted = Field(
        description="Class that writes to the landing zone what producers would have written."
    )


class Document(Model):
    """What a file holds as a whole: its errors are in plain words, whoever validates it."""

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Whoever validates (Dagster does, before the cross-checks run) gets the same sentences.
        try:
            return handler(value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, in_plain_words(error, cls, value)
            ) from None


class TriedPolicy(Document):
    """A file of a policy for `mlops backtest`: its triggers are all there are; without any, and of the policy
    what it leaves out, is as the pipeline declares."""

    triggers: Triggers | None = Field(default=None, description="As in a pipeline.")
    policy: Policy | None = Field(default=None, description="As in a pipeline.")


class SharedViews(Document):
    """A file of views for several pipelines."""

    pipeline: NearFolder = Field(
        description="Folder, relative to the file's, of the pipeline whose events, labels and references the "
        "views are of; it makes their tiles."
    )
    views: tuple[View, ...] = Field(min_length=1, description="As `features.views`.")


class PipelineSpec(Document):
    """One model kept fresh: the attributes of a `LearningLoop`."""

    name: Name = Field(description="Name of the pipeline; prefix of its assets, jobs and sensors.")
    description: str = Field(default="", description="The question the model answers.")
    owners: tuple[Owner, ...] = Field(default=(), description="`team:NAME` or e-mail addresses.")
    partitions: Partitions = Field(description="How event time is cut.")
    events: Events = Field(description="What is scored.")
    labels: Labels = Field(description="What came of it.")
    references: dict[Name, Reference] = Field(
        default_factory=dict, description="What else is known: weather, prices, registers."
    )
    lateness: PositiveDuration = Field(
        default=timedelta(days=30),
        description="How long after its own time a row may arrive; what comes later is quarantined.",
    )
    contract: FileName = Field(default="contract.yaml", description="File of the contract, beside this one.")
    features: Features = Field(description="What the model sees.")
    training: Training = Field(default_factory=Training, description="How it learns.")
    gates: Gates = Field(default_factory=Gates, description="What a candidate must prove.")
    triggers: Triggers = Field(default_factory=Triggers, description="What asks for runs.")
    policy: Policy = Field(default_factory=Policy, description="What holds retrains back.")
    promotion: Promotion = Field(default_factory=Promotion, description="How a candidate becomes champion.")
    decision: Decision = Field(default_factory=Decision, description="What a score means for its event.")
    retention: Retention = Field(
        default_factory=Retention, description="How long `mlops gc` keeps things; by default for good."
    )
    exploration: Exploration | None = Field(
        default=None, description="Labels that do not depend on what the model says."
    )
    alerts: Alerts = Field(default_factory=Alerts, description="Whom it tells what is wrong.")
    slos: Slos | None = Field(
        default=None, description="What share of events, decisions and days has to be good, over a window."
    )
    replay: Replay | None = Field(default=None, description="Source of a replay of history.")

    def stream(self, name: str) -> Events | Labels | Reference:
        """What is declared of `events`, `labels` or a reference, by its name. KeyError if there is none."""
        streams: dict[str, Events | Labels | Reference] = {"events": self.events, "labels": self.labels}
        return {**streams, **self.references}[name]

    @property
    def ids_unique_within(self) -> timedelta:
        """How far apart the times of two events with one id are at least.

        Not less than labels take, and a day: so no label can be of two events.
        """
        return max(self.lateness, self.labels.matures_after + timedelta(days=1))

    @property
    def predictions_used_for(self) -> timedelta:
        """How long after its event a prediction is looked at: for events that still arrive, and triggers."""
        performance = self.triggers.performance
        measured = performance.over + self.labels.matures_after if performance else timedelta(0)
        drifting = (self.triggers.drift, self.triggers.prediction_drift)
        drifted = max((timedelta(days=one.persists[1]) for one in drifting if one), default=timedelta(0))
        return max(self.ids_unique_within, measured, drifted)
