"""Features that are Python functions over the event's own columns, where SQL does not reach.

A function takes a `pyarrow.Table` of the columns it declares, and returns as many values, one a row in
their order: an Arrow array, or what makes one. A value depends on its own row alone, and is the same
whenever it is computed: some rows are computed once more, in another order and without the others.
"""

from __future__ import annotations

import ast
import hashlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from mlops_pipelines.features.sets import Function

# About so many rows are computed twice, and never all of them.
ROWS_TRIED = 64


def source_of(function: str) -> Path | None:
    """The file that holds a function `module:name`, without running it; None if there is none.

    The packages around the module are imported.
    """
    module, _, name = function.partition(":")
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return None
    path = Path(found.origin)
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    return path if name in functions else None


def source_hash(function: str) -> str:
    """SHA-256, 16 hex digits, of the file that holds the function. Raises TerminalError if none does."""
    path = source_of(function)
    if path is None:
        raise TerminalError(f"There is no function {function}.", expected="module:function")
    return _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def evaluate_functions(
    functions: Mapping[str, Function], events: pa.Table, *, hidden: bool
) -> dict[str, pa.ChunkedArray]:
    """Values of the features under `from_python`, rows in the order of `events`.

    Numbers are float64, categories strings; what is no finite number is null. hidden: whether the rows
    have values that are shown nowhere. Raises TerminalError for a function that is written otherwise than
    when the features were defined, that fails, gives another number of values or of another type, or
    whose values are not the same for the same rows.
    """
    return {
        name: _evaluate(name, one, events.select(list(one.columns)), hidden=hidden)
        for name, one in functions.items()
    }


def rewritten(functions: Mapping[str, Function]) -> list[str]:
    """The functions `module:name` whose file is another one than when the features were defined, or gone."""

    def stands(one: Function) -> bool:
        path = source_of(one.function)
        return path is not None and _digest(path) == one.source

    return sorted({one.function for one in functions.values() if not stands(one)})


def _evaluate(name: str, feature: Function, rows: pa.Table, *, hidden: bool) -> pa.ChunkedArray:
    if rewritten({name: feature}):
        raise TerminalError(
            f"Feature {name}: the file of {feature.function} was changed, and a model in use was trained on "
            "what it was.",
            expected=f"the file as it was (SHA-256 {feature.source}…)",
            remedy="put it back, and write the new function in another file, until no model is fed by the "
            "old one (mlops features list)",
        )
    module, _, attribute = feature.function.partition(":")
    function = getattr(import_module(module), attribute)
    values = _called(name, feature, function, rows, hidden=hidden)
    tried = list(range(0, rows.num_rows, max(2, rows.num_rows // ROWS_TRIED)))[::-1]
    if not _called(name, feature, function, rows.take(tried), hidden=hidden).equals(values.take(tried)):
        raise TerminalError(
            f"Feature {name}: {feature.function} gives other values for the same rows.",
            expected="values that depend on their own row alone, and neither on chance nor on a clock",
        )
    return values


def _called(
    name: str, feature: Function, function: Callable[[Any], Any], rows: pa.Table, *, hidden: bool
) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.float64() if feature.kind == "number" else pa.string()
    try:
        made = function(rows)
        values = made if isinstance(made, pa.ChunkedArray) else pa.chunked_array([pa.array(made)])
        values = (
            values.cast(kind, safe=False)
            if values.null_count < len(values)
            else pa.chunked_array([pa.nulls(len(values), kind)])
        )
    except Exception as error:  # the user's own code may fail in any way
        said = type(error).__name__ if hidden else f"{type(error).__name__}: {error}"
        raise TerminalError(
            f"Feature {name}: {feature.function} failed: {said}",
            expected=f"a value, or null, of type {feature.kind} for every row",
        ) from (None if hidden else error)
    if len(values) != rows.num_rows:
        raise TerminalError(
            f"Feature {name}: {feature.function} gave {len(values):,} values for {rows.num_rows:,} rows.",
            expected="one value a row",
        )
    if feature.kind == "number":
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
    return pa.chunked_array([values.combine_chunks()])
