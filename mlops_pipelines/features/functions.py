"""Features that are Python functions over the event's own columns, where SQL does not reach.

A function takes a `pyarrow.Table` of the columns it declares, and returns as many values, one a row in
their order: an Arrow array, or what makes one. A value depends on its own row alone, and is the same
whenever it is computed: some rows are computed once more, in another order and without the others.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.spec_wording import alternatives

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    import pyarrow as pa

    from mlops_pipelines.features.sets import Function

# About so many rows are computed twice, and never all of them.
ROWS_TRIED = 64
# The package of the pipelines' folders: installed wherever `mlops` and Dagster are.
PIPELINES = "mlops_pipelines.pipelines"


def source_of(function: str) -> Path:
    """The file that holds a function `module:name`, without running it.

    The packages around the module are imported. Raises UserError, in words that go on from the place that
    names the function: there is no such module, it has no such function, or not one written with `def`.
    """
    module, _, name = function.partition(":")
    path = _file_of(module)
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no Python that can be read: {error}") from error
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    if name in functions:
        return path
    if name in _names(body):
        raise UserError(
            f"{name} of {module} is no function written with def at the top level of {path}; "
            f"write `def {name}(rows):` there"
        )
    raise UserError(f"{module} ({path}) has no function {name}{alternatives(name, functions)}")


def _file_of(module: str) -> Path:
    try:
        found = find_spec(module)
    except (ModuleNotFoundError, ValueError):  # of the package that would hold it; a module without a spec
        found = None
    except Exception as error:  # a package around it is the user's own code
        raise UserError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    if found is None:
        raise UserError(
            f"there is no module {module}; a file NAME.py beside the pipeline's defs.yaml is "
            f"{PIPELINES}.PIPELINE.NAME to every command, any other has to be installed"
        )
    if found.origin is None or not found.origin.endswith(".py"):
        raise UserError(f"{module} is not a .py file, and a feature's version is that of its file")
    return Path(found.origin)


def _names(body: Sequence[ast.stmt]) -> set[str]:
    """What a module's statements define at its top level, functions written with `def` aside."""
    bound = {
        node.id
        for statement in body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    imported = {
        alias.asname or alias.name
        for statement in body
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        for alias in statement.names
    }
    made = {one.name for one in body if isinstance(one, (ast.ClassDef, ast.AsyncFunctionDef))}
    return bound | imported | made


def source_hash(function: str) -> str:
    """SHA-256, 16 hex digits, of the file that holds the function. Raises UserError as `source_of` does."""
    return _digest(source_of(function).read_bytes())


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


@lru_cache(maxsize=64)
def _module(name: str, path: Path, text: bytes) -> ModuleType:
    """The module made of this very text: one imported before may be of what its file said then."""
    spec = spec_from_file_location(name, path)
    if spec is None:
        raise UserError(f"{path} is not a .py file")
    module = module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where dataclasses and pickles look for it
    try:
        exec(compile(text, path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - as an import does
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


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
    return sorted({one.function for one in functions.values() if _text(one) is None})


def _text(feature: Function) -> bytes | None:
    """The file of a function as it was when the feature was defined; None if it is another one, or gone."""
    try:
        text = source_of(feature.function).read_bytes()
    except (UserError, OSError):
        return None
    return text if _digest(text) == feature.source else None


def _evaluate(name: str, feature: Function, rows: pa.Table, *, hidden: bool) -> pa.ChunkedArray:
    text = _text(feature)
    if text is None:
        raise TerminalError(
            f"Feature {name}: the file of {feature.function} was changed after the feature was defined, or a "
            "model in use was trained on what it was.",
            expected=f"the file as it was (SHA-256 {feature.source}…)",
            remedy="reload the code location, for a change that no model in use depends on (mlops features "
            "list); else put the file back, and write the new function in another one",
        )
    module, _, attribute = feature.function.partition(":")
    try:
        function = getattr(_module(module, source_of(feature.function), text), attribute)
    except Exception as error:  # the user's own code may fail in any way
        raise TerminalError(
            f"Feature {name}: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
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
