"""SQL scalar expressions over an event's columns: judged when a pipeline is loaded, before they run.

DuckDB itself parses and binds them. What passes reads the event's own row and nothing else, and gives
the same value whenever it is computed: no subquery, aggregate or window, no file, no clock, no chance.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.spec_wording import alternatives

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import duckdb

Kind = Literal["number", "category"]

# The column types of a contract, as DuckDB reads them from the lake.
SQL_TYPES: Mapping[str, str] = {
    "string": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
}

# ~~ is LIKE, ~~* ILIKE and ~~~ GLOB.
OPERATORS = frozenset({
    "+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*", "~~~", "&", "|", "<<", ">>",
    "~",
})  # fmt: skip

# A list of what may be used, and not of what may not: what DuckDB adds is refused until someone has
# looked at it. Left out on purpose: `age` (reads the clock), `hash` (differs between DuckDB's versions),
# everything that reads settings, files, sequences or chance.
FUNCTIONS = frozenset({
    "abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "cot", "degrees", "exp", "fdiv", "floor", "fmod",
    "greatest", "isfinite", "isinf", "isnan", "least", "ln", "log", "log10", "log2", "mod", "pi", "pow",
    "power", "radians", "round", "sign", "sin", "sqrt", "tan", "trunc",
    "if", "nullif",
    "concat", "concat_ws", "contains", "ends_with", "instr", "left", "length", "levenshtein", "lower", "lpad",
    "ltrim", "prefix", "regexp_extract", "regexp_full_match", "regexp_matches", "regexp_replace", "repeat",
    "replace", "reverse", "right", "rpad", "rtrim", "split_part", "starts_with", "strpos", "substr",
    "substring", "suffix", "trim", "upper",
    "date_add", "date_diff", "date_part", "date_sub", "date_trunc", "datediff", "datepart", "datesub",
    "datetrunc", "day", "dayname", "dayofmonth", "dayofweek", "dayofyear", "days_in_month", "epoch",
    "epoch_ms", "hour", "isodow", "isoyear", "last_day", "make_date", "minute", "month", "monthname",
    "quarter", "second", "strftime", "time_bucket", "timezone", "to_days", "to_hours", "to_minutes",
    "to_months", "to_seconds", "to_weeks", "to_years", "week", "weekday", "weekofyear", "year", "yearweek",
})  # fmt: skip

_NODES = frozenset({
    "BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION",
    "OPERATOR", "TYPE",
})  # fmt: skip
_NODE_NAMES = {
    "LAMBDA": "a lambda",
    "PARAMETER": "a parameter",
    "STAR": "*",
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
}
_OWN_ROW = "; only scalar expressions over the event"
_OTHER_ROWS = ", over other rows; put it under features.views"
_NODE_REMEDIES = {"SUBQUERY": _OTHER_ROWS, "WINDOW": _OTHER_ROWS}
_NUMBERS = frozenset({
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN",
})  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """What an expression gives, or why it is refused: `kind` is None where there are problems.

    columns: those it reads.
    """

    kind: Kind | None
    problems: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def judge_expressions(expressions: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, Judged]:
    """The verdict on each expression, by name.

    expressions: SQL by name. columns: the event's columns and their contract types.
    """
    return dict(_judge_all(tuple(expressions.items()), tuple(columns.items())))


@lru_cache(maxsize=32)
def _judge_all(
    expressions: tuple[tuple[str, str], ...], columns: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, Judged], ...]:
    if not expressions:
        return ()
    import duckdb  # 0.2 s

    types = dict(columns)
    with duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False}) as connection:
        listed = ", ".join(f'"{column}" {SQL_TYPES[kind]}' for column, kind in columns)
        connection.execute(f"CREATE TABLE event ({listed})")
        # One row of times and nothing else: enough to meet a time zone that does not exist.
        times = ", ".join(
            "'2000-01-01 00:00:00+00'" if kind == "timestamp" else "NULL" for _, kind in columns
        )
        connection.execute(f"INSERT INTO event VALUES ({times})")  # noqa: S608  (no text of the user's)
        return tuple((name, _judge(connection, sql, types)) for name, sql in expressions)


def _judge(connection: duckdb.DuckDBPyConnection, sql: str, columns: Mapping[str, str]) -> Judged:
    # With and without parentheses: text that closes them, or adds a clause, fails one of the two.
    trees = [
        _parsed(connection, f"SELECT {written} FROM event")  # noqa: S608  (parsed, not run)
        for written in (sql, f"({sql})")
    ]
    broken = next((tree for tree in trees if isinstance(tree, str)), None)
    if broken is not None or len(_statements(trees[0])) != 1:
        return Judged(None, (_unparsed(sql, broken),))
    problems = tuple(dict.fromkeys(_forbidden(connection, trees[1], columns)))
    if problems:
        return Judged(None, problems)
    read = (".".join(node["column_names"]) for node in _nodes(trees[1]) if node["class"] == "COLUMN_REF")
    return replace(_computed(connection, sql), columns=tuple(sorted(set(read))))


def _parsed(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any] | str:
    """DuckDB's syntax tree of a query, or what is wrong with it."""
    row = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    tree: dict[str, Any] = json.loads(row[0]) if row else {}
    if tree.get("error", True):
        return str(tree.get("error_message", "no syntax tree"))
    return tree


def _unparsed(sql: str, error: str | None) -> str:
    """What is wrong with a text that is no expression. error: DuckDB's, about the query around it."""
    why = error or "more than one statement"
    if ";" in re.sub(r"'[^']*'", "", sql):
        why = "syntax error at a semicolon; it is no statement, leave it out and what follows it"
    elif 'near "FROM"' in why and "from" not in sql.lower():
        why = "syntax error at its end: something is missing there"
    return f"is not one SQL scalar expression: {why}"


def _statements(tree: dict[str, Any] | str) -> list[Any]:
    return tree["statements"] if isinstance(tree, dict) else []


def _forbidden(
    connection: duckdb.DuckDBPyConnection, tree: dict[str, Any] | str, columns: Mapping[str, str]
) -> Iterator[str]:
    """What the expression contains and may not, in the order it is written."""
    select = _statements(tree)[0]["node"]
    if len(select["select_list"]) != 1:
        yield "gives more than one value; write one scalar expression"
    for node in _nodes(select["select_list"]):
        kind = node["class"]
        if kind not in _NODES:
            yield f"contains {_NODE_NAMES.get(kind, kind.lower())}{_NODE_REMEDIES.get(kind, _OWN_ROW)}"
        elif kind == "COLUMN_REF":
            column = ".".join(node["column_names"])
            if column not in columns:
                yield f"{column} is not a column of the events{alternatives(column, list(columns))}"
        elif kind == "FUNCTION":
            yield from _forbidden_function(connection, node)


def _forbidden_function(connection: duckdb.DuckDBPyConnection, node: dict[str, Any]) -> Iterator[str]:
    name = ".".join(node["qualified_name"]["path"]).lower()
    if name not in FUNCTIONS | OPERATORS:
        query = "SELECT function_type, stability FROM duckdb_functions() WHERE function_name = ?"
        known = connection.execute(query, [name]).fetchall()
        kinds, stable = {kind for kind, _ in known}, {stability for _, stability in known}
        if "aggregate" in kinds:
            why = f": it is an aggregate{_OTHER_ROWS}"
        elif kinds and kinds <= {"table", "table_macro"}:
            why = f": it reads files or tables{_OWN_ROW}; other data lands as a reference"
        elif stable & {"VOLATILE", "CONSISTENT_WITHIN_QUERY"}:
            why = ": it does not give the same value tomorrow"
        else:
            why = alternatives(name, sorted(FUNCTIONS))
        yield f"{name} is not a function that may be used{why}"
    # A zone that a row names may not exist, and DuckDB's TRY lets that through: one row would stop all.
    if name == "timezone" and any(one["class"] == "COLUMN_REF" for one in _nodes(node["arguments"][:-1])):
        yield "takes a time zone from a column; write it as a text, such as 'America/New_York'"


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """The expression nodes of a syntax tree."""
    if isinstance(part, dict):
        if "class" in part:
            yield part
        for below in part.values():
            yield from _nodes(below)
    elif isinstance(part, list):
        for below in part:
            yield from _nodes(below)


def _computed(connection: duckdb.DuckDBPyConnection, sql: str) -> Judged:
    """Binds names and types, and computes the expression once."""
    import duckdb

    try:
        result = connection.execute(f"SELECT ({sql}) FROM event")  # noqa: S608  (judged above)
        sql_type = str(result.description[0][1])
        result.fetchall()
    except duckdb.Error as error:
        return Judged(None, (f"cannot be computed: {str(error).splitlines()[0]}",))
    if sql_type == "VARCHAR":
        return Judged("category")
    if sql_type.split("(", maxsplit=1)[0] in _NUMBERS:
        return Judged("number")
    return Judged(None, (f"gives {sql_type}, which is no feature (allowed: numbers, BOOLEAN, VARCHAR)",))
