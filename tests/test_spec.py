"""The models of a pipeline's YAML: how values are written, and what each field refuses by itself."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from mlops_pipelines import spec as spec_module
from mlops_pipelines.spec import (
    BacklogTrigger,
    Model,
    PipelineSpec,
    View,
    format_duration,
    format_size,
    parse_day,
    parse_duration,
    parse_landing,
    parse_persists,
    parse_size,
)

CENTURY = 36525 * 86400
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
MINIMAL: dict[str, Any] = {
    "name": "returns",
    "partitions": {"start": "2024-01-01"},
    "events": {"landing": "landing/events", "time": "placed_at"},
    "labels": {
        "landing": "landing/labels",
        "value": "returned",
        "time": "decided_at",
        "matures_after": "30d",
    },
    "features": {},
}
LANDINGS = jsonschema.Draft202012Validator(
    PipelineSpec.model_json_schema()["$defs"]["Events"]["properties"]["landing"]
)
MODELS = [
    model
    for model in vars(spec_module).values()
    if isinstance(model, type) and issubclass(model, Model) and model is not Model
]


@given(st.integers(0, CENTURY).map(lambda seconds: timedelta(seconds=seconds)))
def test_a_duration_is_read_back_from_its_shortest_spelling(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@given(st.integers(0, 9999), st.sampled_from(sorted(SECONDS)), st.sampled_from(["", " ", "  "]))
def test_a_duration_means_its_number_of_its_unit(number: int, unit: str, space: str) -> None:
    seconds = number * SECONDS[unit]
    if seconds <= CENTURY:
        assert parse_duration(f"{number}{space}{unit}") == timedelta(seconds=seconds)
    else:
        with pytest.raises(ValueError, match="not a duration between 0s and 36525d"):
            parse_duration(f"{number}{space}{unit}")


@given(st.integers(0, CENTURY))
def test_the_shortest_spelling_of_a_duration_is_stable(seconds: int) -> None:
    spelled = format_duration(timedelta(seconds=seconds))
    assert format_duration(parse_duration(spelled)) == spelled


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "3",
        "3x",
        "1.5h",
        "-3h",
        "3 h ",
        "3h\n",
        "h",
        "3hours",
        "٣h",
        "9" * 13 + "s",
        3,
        1.5,
        True,
        None,
        [],
    ],
)
def test_what_is_no_duration_is_refused_with_the_units(wrong: object) -> None:
    with pytest.raises(ValueError, match="whole number and one of s, m, h, d, w, such as 36h"):
        parse_duration(wrong)


@pytest.mark.parametrize(
    "wrong", [timedelta(seconds=-1), timedelta(days=40000), timedelta(milliseconds=1500)]
)
def test_a_duration_that_could_not_be_written_is_refused(wrong: timedelta) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(wrong)


@given(st.integers(0, 10**15))
def test_a_size_is_read_back_from_its_shortest_spelling(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**6), st.sampled_from([("B", 1), ("KB", 10**3), ("MB", 10**6), ("GB", 10**9)]))
def test_a_size_means_its_number_of_powers_of_ten(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]
    assert parse_size(number) == number


@pytest.mark.parametrize(
    "wrong", ["", "64", "64mb", "64MiB", "1.5GB", "-1B", "9" * 16 + "B", -1, 1.5, True, None]
)
def test_what_is_no_size_is_refused_with_the_units(wrong: object) -> None:
    with pytest.raises(ValueError, match="whole number and one of B, KB, MB, GB, such as 64MB"):
        parse_size(wrong)


@given(st.integers(1, 99), st.integers(0, 99))
def test_persistence_is_read_back(m: int, more: int) -> None:
    assert parse_persists(f"{m} of {m + more}") == (m, m + more)
    assert parse_persists((m, m + more)) == (m, m + more)


@pytest.mark.parametrize(
    "wrong", ["4 of 3", "0 of 3", "2 of", "2/3", "2  of 3", (3, 2), (1,), [2, 3], 2, None]
)
def test_what_is_no_persistence_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="'m of n' with 1 <= m <= n"):
        parse_persists(wrong)


@given(st.dates())
def test_a_day_is_read_back(day: date) -> None:
    assert parse_day(day.isoformat()) == day
    assert parse_day(day) == day


@pytest.mark.parametrize(
    "wrong",
    ["20130101", "2013-W01-1", "2013-1-1", "01.02.2013", 20130101, 0, datetime(2013, 1, 1), None],  # noqa: DTZ001
)
def test_only_one_spelling_of_a_day_is_taken(wrong: object) -> None:
    with pytest.raises(ValueError, match="write YYYY-MM-DD"):
        parse_day(wrong)


def test_a_day_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="day"):
        parse_day("2013-02-30")


def test_a_minimal_pipeline_has_defaults_for_the_rest() -> None:
    spec = PipelineSpec.model_validate(MINIMAL)
    assert spec.events.id == "event_id"
    assert spec.labels.publish_lag == timedelta(0)
    assert spec.training.holdout == timedelta(days=28)
    assert spec.triggers.backlog.bytes == 64_000_000
    assert spec.gates.skill is None
    assert spec.policy.budget.retrains == 6


def test_a_spec_survives_being_written_and_read() -> None:
    spec = PipelineSpec.model_validate(
        {
            **MINIMAL,
            "features": {
                "views": [{"name": "v", "key": "a", "of": "events", "last": ["b"], "within": "90m"}]
            },
            "triggers": {"drift": {"persists": "3 of 5"}, "backlog": {"bytes": "1GB"}},
        }
    )
    written = spec.model_dump(mode="json")
    assert written["features"]["views"][0]["within"] == "90m"
    assert written["triggers"]["drift"]["persists"] == "3 of 5"
    assert written["triggers"]["backlog"]["bytes"] == "1GB"
    assert PipelineSpec.model_validate(written) == spec
    assert PipelineSpec.model_validate_json(spec.model_dump_json()) == spec


def test_one_key_is_the_same_with_and_without_a_list() -> None:
    alone = View.model_validate({"name": "v", "key": "a", "of": "events"})
    assert alone == View.model_validate({"name": "v", "key": ["a"], "of": "events"})
    assert alone.keys == ("a",)


def test_features_of_a_view_are_named_by_column_aggregate_and_window() -> None:
    view = View.model_validate(
        {
            "name": "tail",
            "key": "tailnum",
            "of": "labels",
            "aggregate": {"late": ["mean", "count"], "delay": ["last"]},
            "windows": ["6h", "1d"],
            "last": ["late"],
        }
    )
    assert view.feature_names == (
        "tail_late_mean_6h",
        "tail_late_mean_1d",
        "tail_late_count_6h",
        "tail_late_count_1d",
        "tail_delay_last",
        "tail_late_last",
    )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name}"
        assert field.description.endswith("."), f"{model.__name__}.{name}"


def test_every_default_in_the_json_schema_satisfies_the_json_schema() -> None:
    schema = PipelineSpec.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model["properties"].items():
            if "default" in field:
                checker = jsonschema.Draft202012Validator({**field, "$defs": schema["$defs"]})
                assert list(checker.iter_errors(field["default"])) == []
                assert name not in model.get("required", [])


def test_the_json_schema_knows_how_durations_are_written() -> None:
    checker = jsonschema.Draft202012Validator(PipelineSpec.model_json_schema())
    assert list(checker.iter_errors(MINIMAL)) == []
    wrong = {**MINIMAL, "policy": {"cooldown": "3 days"}, "partitions": {"start": "1 May"}}
    assert sorted(error.json_path for error in checker.iter_errors(wrong)) == [
        "$.partitions.start",
        "$.policy.cooldown",
    ]


@pytest.mark.parametrize(
    ("changed", "place", "sentence"),
    [
        (
            {"nam": 1},
            ("nam",),
            "nam is not a key of this part; did you mean name? (allowed: name, description,",
        ),
        (
            {"partitions": {"every": "hour", "start": "2013-01-01"}},
            ("partitions", "every"),
            "hour is not available yet (allowed: day)",
        ),
        (
            {"promotion": {"approval": "robot"}},
            ("promotion", "approval"),
            "'robot' is not allowed (allowed: automatic, human)",
        ),
        (
            {"training": {"seed": "17"}},
            ("training", "seed"),
            "'17' is not a whole number",
        ),
        ({"training": {"seed": True}}, ("training", "seed"), "True is not a whole number"),
        ({"training": {"refit": "yes"}}, ("training", "refit"), "'yes' is not true or false"),
        (
            {"training": {"params": {"max_depth": [3]}}},
            ("training", "params", "max_depth"),
            "[3] is not a text or a whole number or a number or true or false",
        ),
        (
            {"gates": {"skill": {"at_least": "2e-2"}}},
            ("gates", "skill", "at_least"),
            "'2e-2' is not a number; write 0.02, without quotes",
        ),
        (
            {"gates": {"skill": {"at_least": float("nan")}}},
            ("gates", "skill", "at_least"),
            "nan is not a finite number",
        ),
        (
            {"policy": {"mode": False}},
            ("policy", "mode"),
            "False is not allowed (allowed: act, observe)",
        ),
        (
            {"description": False},
            ("description",),
            "False is not a text; YAML reads yes, no, on and off as true and false: put it in quotes",
        ),
        ({"gates": [1]}, ("gates",), "[1] is not a mapping of keys to values"),
        ({"owners": "me@here.org"}, ("owners",), "'me@here.org' is not a list"),
        ({"owners": ["me"]}, ("owners", 0), "'me' is not team:NAME or an e-mail address"),
        (
            {"name": "Returns"},
            ("name",),
            "'Returns' is not a name: a lower-case letter, then at most 62 lower-case letters",
        ),
        ({"contract": "../contract.yaml"}, ("contract",), "is not a .yaml file beside this one"),
        (
            {"references": {"Weather": {"landing": "landing/w", "keys": ["a"]}}},
            ("references", "Weather"),
            "'Weather' is not a name",
        ),
        (
            {"references": {"weather": {"landing": "landing/w", "keys": []}}},
            ("references", "weather", "keys"),
            "is empty; at least one is needed",
        ),
        (
            {"policy": {"budget": {"per": "0d"}}},
            ("policy", "budget", "per"),
            "must be longer than 0s",
        ),
        (
            {"policy": {"budget": {"retrains": 0}}},
            ("policy", "budget", "retrains"),
            "0: must be greater than or equal to 1",
        ),
        (
            {"features": {"views": [{"name": "v", "key": 7, "of": "events"}]}},
            ("features", "views", 0, "key"),
            "7 is neither a column nor a list of columns",
        ),
    ],
)
def test_an_error_says_what_is_wrong_where_and_what_is_allowed(
    changed: dict[str, Any], place: tuple[str | int, ...], sentence: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        PipelineSpec.model_validate({**MINIMAL, **changed})
    [error] = refused.value.errors()
    assert error["loc"] == place
    assert sentence in error["msg"]


def test_every_error_is_reported_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        PipelineSpec.model_validate(
            {**MINIMAL, "name": 1, "events": {}, "alerts": [], "policy": {"cooldown": 3}}
        )
    assert [error["loc"] for error in refused.value.errors()] == [
        ("name",),
        ("events", "landing"),
        ("events", "time"),
        ("policy", "cooldown"),
        ("alerts",),
    ]


def test_an_error_can_be_built_again_with_more_in_it() -> None:
    """As Dagster does, which adds the file and the line."""
    with pytest.raises(ValidationError) as refused:
        PipelineSpec.model_validate({**MINIMAL, "name": 1})
    [error] = refused.value.errors()
    again: Any = {**error, "loc": ("name at defs.yaml:3",), "ctx": {**error["ctx"], "line": 3}}
    assert "defs.yaml:3" in str(ValidationError.from_exception_data("again", [again]))


def test_a_backlog_bound_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        BacklogTrigger(bytes=0)


@pytest.mark.parametrize(
    "landing",
    [
        "landing/events",
        "s3://bucket",
        "s3://bucket/flights/events",
        "gs://bucket/a.b/c_d",
        "abfs://container/events",
        "memory://events",
        "sftp://host.example:2222/srv/events",
        "file:///srv/events",
    ],
)
def test_a_landing_folder_is_below_the_pipeline_or_a_url(landing: str) -> None:
    assert parse_landing(landing) == landing
    assert list(LANDINGS.iter_errors(landing)) == []


@pytest.mark.parametrize(
    "landing",
    [
        "",
        "/srv/events",
        "events/",
        "s3:/bucket/events",
        "s3://",
        "s3:///",
        "s3://bucket/",
        "s3://bucket//events",
        "s3://bucket/.events",
        "s3://bucket/events\n",
        "s3://bucket/a b",
        "s3://bucket/a::zip://b",
        "simplecache::s3://bucket/events",
        "S3://bucket/events",
        "s3://bucket:hidden/events",
        "s3://hidden@bucket/events",
        "s3://user:hidden@bucket/events",
        "s3://bucket/events?key=hidden",
        "s3://bucket/events#hidden",
    ],
)
def test_what_is_neither_is_refused_and_no_secret_is_repeated(landing: str) -> None:
    with pytest.raises(ValueError, match="URL") as refused:
        parse_landing(landing)
    assert "hidden" not in str(refused.value)
    assert list(LANDINGS.iter_errors(landing)) != [] or landing.endswith("\n")
    with pytest.raises(ValidationError) as caught:
        PipelineSpec.model_validate({**MINIMAL, "events": {**MINIMAL["events"], "landing": landing}})
    assert "hidden" not in str(caught.value)


def test_a_file_url_says_its_folder_from_the_root_on() -> None:
    with pytest.raises(
        ValueError, match=r"write file:///, and the folder from the root on, such as file:///srv"
    ):
        parse_landing("file://srv/events")


@pytest.mark.parametrize(("landing", "meant"), [("s4://b/c", ""), ("abfz://b/c", "; did you mean abfs?")])
def test_a_protocol_that_fsspec_does_not_know_is_refused(landing: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"fsspec knows no {landing.partition(':')[0]}://{meant} (allowed: ")
    ):
        parse_landing(landing)
