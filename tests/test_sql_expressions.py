"""Which SQL may stand in a feature, and what it gives."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.sql_expressions import FUNCTIONS, OPERATORS, SQL_TYPES, Judged, judge_expressions

COLUMNS = {"placed": "timestamp", "carrier": "string", "seats": "int", "speed": "float", "late": "bool"}


def judge(sql: str) -> Judged:
    return judge_expressions({"f": sql}, COLUMNS)["f"]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("seats", "number"),
        ("speed", "number"),
        ("late", "number"),
        ("carrier", "category"),
        ("extract(hour from placed)", "number"),
        ("60 * hour(placed) + minute(placed)", "number"),
        ("isodow(placed) in (6, 7)", "number"),
        ("hour(placed at time zone 'America/New_York')", "number"),
        ("timezone('America/New_York', placed) > timestamp '2013-01-01'", "number"),
        ("epoch(placed - interval 1 hour)", "number"),
        ("case when seats > 100 then 'big' else carrier end", "category"),
        ("carrier || '-' || seats", "category"),
        ("carrier like 'A%' and not late", "number"),
        ("coalesce(speed, 0) between 1 and 2", "number"),
        ("nullif(seats, 0) is null", "number"),
        ("if(seats > 1, speed / seats, -speed)", "number"),
        ("seats::decimal(9, 2)", "number"),
        ("try_cast(carrier as integer)", "number"),
        ("split_part(carrier, '-', 1)", "category"),
        ("greatest(seats, 1) ** 2 // 3 % 5", "number"),
        ('"carrier"', "category"),
        ("1", "number"),
    ],
)
def test_scalar_expressions_over_the_event_pass(sql: str, kind: str) -> None:
    judged = judge(sql)
    assert (judged.kind, judged.problems) == (kind, ())
    assert judged.columns == tuple(sorted(name for name in COLUMNS if name in sql))


def test_the_columns_an_expression_reads_are_told_once() -> None:
    assert judge("if(seats > 1, speed / seats, -speed)").columns == ("seats", "speed")


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (
            "seets",
            "seets is not a column of the events; did you mean seats? (allowed: placed, carrier, seats, ",
        ),
        ("SEATS", "SEATS is not a column of the events"),
        ("event.seats", "event.seats is not a column of the events"),
        ("event", "event is not a column of the events"),
        ("current_timestamp", "current_timestamp is not a column of the events"),
        ("current_date", "current_date is not a column of the events"),
        ("ab(seats)", "ab is not a function that may be used; did you mean abs? (allowed: abs, acos, "),
        ("main.abs(seats)", "main.abs is not a function that may be used"),
        ("now()", "now is not a function that may be used: it does not give the same value tomorrow"),
        ("hour(timezone(carrier, placed))", "takes a time zone from a column"),
        ("hour(placed at time zone concat('A', carrier))", "takes a time zone from a column"),
        ("age(placed)", "age is not a function that may be used"),
        ("random()", "random is not a function that may be used"),
        ("uuid()", "uuid is not a function that may be used"),
        ("hash(carrier)", "hash is not a function that may be used"),
        ("getenv('HOME')", "getenv is not a function that may be used"),
        ("current_setting('TimeZone')", "current_setting is not a function that may be used"),
        ("nextval('s')", "nextval is not a function that may be used"),
        ("read_csv('/etc/passwd')", "read_csv is not a function that may be used: it reads files or tables"),
        ("read_text('/etc/passwd')", "read_text is not a function that may be used"),
        ("unnest([1, 2])", "unnest is not a function that may be used"),
        ("sum(seats)", "it is an aggregate, over other rows; put it under features.views"),
        ("count(*)", "count_star is not a function that may be used"),
        ("row_number() over ()", "contains a window function, over other rows; put it under features.views"),
        ("sum(seats) over ()", "contains a window function"),
        ("(select 1)", "contains a subquery, over other rows; put it under features.views"),
        ("seats in (select 1)", "contains a subquery"),
        ("exists (from read_csv('x'))", "contains a subquery"),
        ("*", "contains *"),
        ("columns(*)", "contains *"),
        ("?", "contains a parameter"),
        ("list_transform([1], lambda x: x)", "list_transform is not a function that may be used"),
        ("seats, speed", "row is not a function that may be used"),
        ("seats as s", "is not one SQL scalar expression: syntax error"),
        ("seats +", "is not one SQL scalar expression: syntax error at its end: something is missing"),
        ("seats; drop table event", "is not one SQL scalar expression: syntax error"),
        ("seats;", "syntax error at a semicolon; it is no statement"),
        ("split_part(carrier, ';'", "syntax error at its end: something is missing there"),
        ("seats;", "is not one SQL scalar expression: syntax error"),
        ("seats from event where late", "is not one SQL scalar expression: syntax error"),
        ("seats from event --", "is not one SQL scalar expression: syntax error"),
        ("seats) from event --", "is not one SQL scalar expression: syntax error"),
        ("1) from (select 1", "is not one SQL scalar expression: syntax error"),
        ("seats -- a comment", "is not one SQL scalar expression: syntax error"),
        ("", "is not one SQL scalar expression: SELECT clause without selection list"),
        (
            "placed",
            "gives TIMESTAMP WITH TIME ZONE, which is no feature (allowed: numbers, BOOLEAN, VARCHAR)",
        ),
        ("placed::date", "gives DATE, which is no feature"),
        ("interval 1 day", "gives INTERVAL, which is no feature"),
        ("'[1]'::double[]", "gives DOUBLE[], which is no feature"),
        ("null", "which is no feature"),
        ("carrier + 1 + placed", "cannot be computed: Binder Error: "),
        ("carrier::nosuch", "cannot be computed: Catalog Error: "),
        (
            "hour(timezone('Nowhere/Town', placed))",
            "cannot be computed: Not implemented Error: Unknown TimeZone",
        ),
    ],
)
def test_everything_else_is_refused_and_named(sql: str, problem: str) -> None:
    judged = judge(sql)
    assert judged.kind is None
    assert any(problem in found for found in judged.problems), judged.problems


def test_all_problems_of_an_expression_are_named() -> None:
    assert [problem.partition(" is not")[0] for problem in judge("foo(bar) + baz(seats)").problems] == [
        "foo",
        "bar",
        "baz",
    ]


FRAGMENTS = [
    *("seats", "1", "'a'", "(", ")", ",", "+", "*", "--", "/*", "*/", ";", "'", '"', "as x", "in", "abs("),
    *("from event", "is null", "union select", "where late"),
]


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map(" ".join))
def test_what_passes_is_a_scalar_wherever_it_is_put(sql: str) -> None:
    if judge(sql).kind is None:
        return
    with duckdb.connect() as connection:
        declared = ", ".join(f"{name} {SQL_TYPES[kind]}" for name, kind in COLUMNS.items())
        connection.execute(f"CREATE TABLE event ({declared})")
        connection.execute("INSERT INTO event (seats) VALUES (1), (2), (3)")
        rows = connection.execute(f"SELECT {sql} AS f, ({sql}) AS g, 7 AS h FROM event").fetchall()  # noqa: S608
    assert len(rows) == 3
    assert all(f == g and h == 7 for f, g, h in rows)


def test_every_function_that_may_be_used_is_a_scalar_that_depends_on_its_arguments_alone() -> None:
    with duckdb.connect() as connection:
        known = connection.execute(
            "SELECT function_name, list(DISTINCT function_type), list(DISTINCT stability) "
            "FROM duckdb_functions() GROUP BY ALL"
        ).fetchall()
    found = {name: (types, stability) for name, types, stability in known}
    for name in FUNCTIONS | OPERATORS:
        types, stability = found[name]
        assert {"scalar", "macro"} & set(types), name
        assert "aggregate" not in types, name
        assert set(stability) <= {"CONSISTENT", None}, name


def test_no_expressions_need_no_database() -> None:
    assert judge_expressions({}, COLUMNS) == {}
