"""What a sensor asks for: one run over just the days concerned."""

from __future__ import annotations

import pytest

from sensors.requests import days_text, span_request
from tests.small_flights import loaded

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def test_one_day_is_a_partition() -> None:
    request = span_request(loaded(), "score", ["2013-01-05"], "why")
    assert (request.partition_key, request.job_name) == ("2013-01-05", "small_flights_score")
    assert request.tags == {"mlops/reason": "why"}


def test_days_that_follow_each_other_are_one_range() -> None:
    request = span_request(loaded(), "score", ["2013-01-31", "2013-02-01", "2013-01-30"], "why")
    assert (request.tags[START], request.tags[END]) == ("2013-01-30", "2013-02-01")


def test_a_late_day_does_not_make_a_run_over_every_day_since() -> None:
    request = span_request(loaded(), "monitor", ["2013-01-03", "2013-12-11", "2013-12-12"], "why")
    assert (request.tags[START], request.tags[END]) == ("2013-12-11", "2013-12-12")


@pytest.mark.parametrize(
    ("days", "text"),
    [(["2013-01-05"], "2013-01-05"), (["2013-01-05", "2013-01-09"], "2013-01-05 to 2013-01-09")],
)
def test_days_are_named_by_the_first_and_the_last(days: list[str], text: str) -> None:
    assert days_text(days) == text
