"""What a changed contract breaks: for those who write the files, and for what reads the columns."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.ingest.contract_changes import (
    Change,
    changes,
    dependents_of,
    dependents_on,
    features_of,
)
from mlops_pipelines.spec_loading import load_pipeline


def contract(rule: dict[str, Any] | None, **others: Any) -> Contract:
    columns = {"id": {"type": "string"}, **({"x": rule} if rule else {})}
    return Contract.model_validate(
        {"events": {"columns": columns}, "labels": {"columns": {"late": {"type": "bool"}}}, **others}
    )


def changed(old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[Change]:
    return changes(contract(old), contract(new))


INT, TEXT = {"type": "int"}, {"type": "string"}


@pytest.mark.parametrize(
    ("old", "new", "producers", "readers", "what"),
    [
        (INT, None, False, True, "the column is gone"),
        (None, INT, True, False, "the column is new: a file without it is refused"),
        (INT, TEXT, True, True, "type was int and is string"),
        (INT, INT | {"nullable": True}, False, True, "may be missing now"),
        (INT | {"nullable": True}, INT, True, False, "may no longer be missing"),
        (INT | {"unit": "mi"}, INT | {"unit": "km"}, True, True, "unit was mi and is km"),
        (INT, INT | {"min": 0}, True, False, "min was not given and is 0"),
        (INT | {"min": 0}, INT | {"min": -1}, False, True, "min was 0 and is -1"),
        (INT | {"max": 9}, INT | {"max": 8}, True, False, "max was 9 and is 8"),
        (INT | {"max": 9}, INT, False, True, "max was 9 and is not given"),
        (TEXT | {"one_of": ["a", "b"]}, TEXT | {"one_of": ["a"]}, True, False, "one_of no longer has b"),
        (TEXT | {"one_of": ["a"]}, TEXT | {"one_of": ["a", "b"]}, False, True, "one_of now has b"),
        (TEXT, TEXT | {"one_of": ["a"]}, True, False, "one_of is new: only a pass"),
        (TEXT | {"one_of": ["a"]}, TEXT, False, True, "one_of is gone: any value passes"),
        (TEXT, TEXT | {"pattern": "a+"}, True, False, "pattern was not given and is a+"),
        (TEXT | {"pattern": "a"}, TEXT | {"pattern": "b"}, True, True, "pattern was a and is b"),
        (TEXT, TEXT | {"sensitive": True}, False, False, "is now sensitive"),
        (INT, INT | {"on_fail": "halt"}, True, False, "on_fail was quarantine and is halt"),
        (
            INT,
            INT | {"batch": {"mean": {"max": 5.0}}},
            True,
            False,
            "batch was not given and is {'mean': {'max': 5.0}}",
        ),
        (
            TEXT | {"one_of": ["a"], "batch": {"others_at_most": 0.5}},
            TEXT | {"one_of": ["a"]},
            True,
            True,
            "batch was {'others_at_most': 0.5} and is not given",
        ),
        (
            TEXT | {"one_of": ["a"]},
            TEXT | {"one_of": ["a"], "batch": {"others_at_most": 0.5}},
            True,
            True,
            "batch was not given and is {'others_at_most': 0.5}",
        ),
    ],
)
def test_a_changed_rule_says_whom_it_breaks(
    old: dict[str, Any] | None, new: dict[str, Any] | None, producers: bool, readers: bool, what: str
) -> None:
    (found,) = changed(old, new)
    assert (found.stream, found.column, found.what) == ("events", "x", what)
    assert (found.breaks_producers, found.breaks_readers) == (producers, readers)


def test_a_list_that_goes_with_its_share_of_others_rejects_no_more_rows() -> None:
    shared = TEXT | {"one_of": ["a"], "batch": {"others_at_most": 0.5}}
    assert [one.breaks_producers for one in changed(shared, TEXT)] == [False, False]
    assert [one.breaks_readers for one in changed(TEXT, shared)] == [False, False]


def test_rules_of_rows_and_files_are_compared() -> None:
    columns = {"columns": {"id": TEXT, "x": INT}}
    ruled = columns | {"rows": {"small": {"holds": "x < 3"}}, "file": {"rows": {"min": 1}}}
    labels = {"columns": {"late": {"type": "bool"}}}
    old = Contract.model_validate({"events": columns, "labels": labels})
    new = Contract.model_validate({"events": ruled, "labels": labels})
    assert [(one.what, one.breaks_producers, one.breaks_readers) for one in changes(old, new)] == [
        ("rows.small was not given and is {'holds': 'x < 3'}", True, False),
        ("file was not given and is {'rows': {'min': 1.0}}", True, False),
    ]
    assert [one.breaks_readers for one in changes(new, old)] == [True, True]


@pytest.mark.parametrize("name", ["description", "unit"])
def test_what_is_for_people_alone_is_no_change_but_a_unit_is(name: str) -> None:
    assert bool(changed(INT, INT | {name: "words"})) == (name == "unit")


def test_equal_contracts_have_no_changes() -> None:
    assert changed(INT, INT) == []


def test_streams_and_shares_are_compared() -> None:
    old = contract(None, references={"weather": {"columns": {"id": TEXT}}})
    new = contract(None, reject_share_halts=0.05)
    found = [(one.stream, one.what, one.is_breaking) for one in changes(old, new)]
    assert found == [
        ("weather", "the stream is gone", True),
        ("", "reject_share_halts was 0.1 and is 0.05", True),
    ]
    assert [(one.stream, one.is_breaking) for one in changes(new, old)] == [("weather", False), ("", False)]


def test_what_reads_a_column_is_named() -> None:
    real = load_pipeline("flight_delays")
    found = dependents_of(real.spec, real.contract)
    assert {"feature carrier", "gate slices"} <= set(found["events", "carrier"])
    assert any(words.startswith("view carrier_lateness") for words in found["events", "carrier"])
    assert "labels.value" in found["labels", "late"]
    assert "events.time" in found["events", "scheduled_departure"]
    assert "references.weather.keys[0]" in found["weather", "origin"]
    new = real.contract.model_copy(update={"events": contract(None).events})
    told = changes(real.contract, new, partial(dependents_on, found))
    carrier = next(one for one in told if one.column == "carrier")
    assert carrier.dependents == found["events", "carrier"]


def told_about(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What the real pipeline is told to stand on each change."""
    real = load_pipeline("flight_delays")
    found = partial(dependents_on, dependents_of(real.spec, real.contract))
    before, after = (Contract.model_validate(real.contract.model_dump() | one) for one in (old, new))
    return {one.what.partition(" was ")[0]: one.dependents for one in changes(before, after, found)}


def test_the_views_of_a_stream_that_is_gone_are_named() -> None:
    real = load_pipeline("flight_delays").contract.model_dump()
    without = {name: rules for name, rules in real["references"].items() if name != "weather"}
    dependents = told_about({}, {"references": without})["the stream is gone"]
    assert "view origin_weather (7 features)" in dependents
    assert not [one for one in dependents if "plane" in one or one.startswith("feature ")]


def test_a_rule_of_rows_names_what_reads_its_columns() -> None:
    real = load_pipeline("flight_delays").contract.model_dump()
    ruled = real["events"] | {"rows": {"far": {"holds": "distance > 1 and scheduled_minutes > 2"}}}
    assert told_about({}, {"events": ruled}) == {
        "rows.far": ("feature distance", "feature scheduled_speed", "feature scheduled_minutes")
    }


def test_rules_of_whole_files_name_what_stands_on_the_stream() -> None:
    real = load_pipeline("flight_delays").contract.model_dump()
    filed = real["labels"] | {"file": {"rows": {"min": 1}}}
    dependents = told_about({}, {"labels": filed})["file"]
    assert dependents[0] == "labels.id"
    assert {"feature distance", "view plane (3 features)", "gate slices"} <= set(dependents)
    assert not [one for one in dependents if one.startswith(("events.", "references."))]
    halts = told_about({}, {"file_size_halts": 5})["file_size_halts"]
    assert {"events.id", "references.weather.time", *dependents} <= set(halts)


def test_figures_that_differ_are_said_so_that_they_do() -> None:
    old = contract(None, file_size_halts=10**9 + 1, reject_rows_allowed=1_000_001, reject_share_halts=0.1)
    new = contract(None, file_size_halts=10**9, reject_rows_allowed=1_000_000, reject_share_halts=0.1000001)
    assert [one.what for one in changes(old, new)] == [
        "reject_share_halts was 0.1 and is 0.1000001",
        "reject_rows_allowed was 1000001 and is 1000000",
        "file_size_halts was 1000000001B and is 1GB",
    ]


def test_the_features_of_a_stream_are_those_of_its_views_and_of_events_and_labels_all() -> None:
    real = load_pipeline("flight_delays")
    weather = features_of(real.spec, real.contract, "weather", [])
    assert len(weather) == 7
    every = set(features_of(real.spec, real.contract, "events", []))
    assert every == set(features_of(real.spec, real.contract, "labels", [])) > {"distance", *weather}


def test_the_features_of_a_column_are_those_that_would_change_with_it() -> None:
    real = load_pipeline("flight_delays")
    keyed = features_of(real.spec, real.contract, "events", ["tailnum"])
    assert all(name.startswith(("tail_", "plane_")) for name in keyed)
    assert features_of(real.spec, real.contract, "events", ["distance"]) == ("distance", "scheduled_speed")
    assert "origin_weather_temp_last" in features_of(real.spec, real.contract, "weather", ["temp"])
    assert features_of(real.spec, real.contract, "weather", ["observed_at"]) == ()
