"""Writes the reference of a pipeline's fields: `python -m mlops_pipelines.spec_reference`.

Everything between the two marks of docs/pipeline.md, and the JSON schema beside it, is made of the models and
tables that also judge a pipeline, so that neither can say something else.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_pipelines import lightgbm_params
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.spec import PipelineSpec
from mlops_pipelines.spec_loading import json_schema
from mlops_pipelines.spec_wording import NOT_AVAILABLE_YET
from mlops_pipelines.sql_expressions import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE = Path(__file__).parent.parent / "docs" / "pipeline.md"
SCHEMA = PAGE.with_name("pipeline.schema.json")
BEGIN = "<!-- made by `python -m mlops_pipelines.spec_reference`: begin -->"
END = "<!-- made by `python -m mlops_pipelines.spec_reference`: end -->"

_PLAIN = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


@dataclass(frozen=True)
class _Part:
    """A mapping of the YAML: where it stands, and its schema."""

    path: str
    schema: Mapping[str, Any]


def reference() -> str:
    """The reference in Markdown: a table for each part, then what may stand in expressions and parameters."""
    root = PipelineSpec.model_json_schema()
    parts = [_Part("attributes", root), *_parts_below("", root, root["$defs"])]
    tables = "\n\n".join(_table(part, root["$defs"]) for part in parts)
    return f"{tables}\n\n{_functions()}\n\n{_params()}\n\n{_coming()}"


def schema_text() -> str:
    """The JSON schema as its file holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def with_reference(page: str) -> str:
    """The page with what stands between its marks made new. Raises TerminalError if a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise TerminalError(f"{PAGE} has lost its marks", expected=f"a line {BEGIN} and a line {END}")
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


def _parts_below(path: str, schema: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[_Part]:
    for name, field in schema["properties"].items():
        for below, model in _models(field):
            part = _Part(f"{path}{name}{below}", models[model])
            yield part
            yield from _parts_below(f"{part.path}.", part.schema, models)


def _models(field: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The models in a field: what is added to its path, and the model's name."""
    if "$ref" in field:
        yield "", field["$ref"].rpartition("/")[2]
    for branch in field.get("anyOf", ()):
        yield from _models(branch)
    if "items" in field:
        yield from ((f"[]{below}", model) for below, model in _models(field["items"]))
    for values in field.get("patternProperties", {}).values():
        yield from ((f".NAME{below}", model) for below, model in _models(values))


def _table(part: _Part, models: Mapping[str, Any]) -> str:
    head = "| field | what it takes | default | what it says |\n|---|---|---|---|\n"
    rows = [
        " | ".join(
            (f"| `{name}`", _kind(field, models), _default(part.schema, name, field), field["description"])
        )
        for name, field in part.schema["properties"].items()
    ]
    return f"### `{part.path}`\n\n{head}" + " |\n".join(rows) + " |"


def _default(schema: Mapping[str, Any], name: str, field: Mapping[str, Any]) -> str:
    if name in schema.get("required", ()):
        return "**needed**"
    if "$ref" in field:
        return "those below"
    value = field.get("default")
    if value is None:
        return "off" if any(_models(field)) else "–"
    return "–" if value in ([], "") else f"`{json.dumps(value).strip(chr(34))}`"


def _kind(field: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    branches = [branch for branch in field.get("anyOf", ()) if branch.get("type") != "null"]
    if branches:
        return " or ".join(_kind(branch, models) for branch in branches)
    if "$ref" in field:
        return "mapping, below"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list: {_kind(field['items'], models)}"
    if "patternProperties" in field or isinstance(field.get("additionalProperties"), dict):
        return _mapping_kind(field, models)
    bounds = [text.format(field[bound]) for bound, text in _BOUNDS.items() if bound in field]
    return ", ".join([field.get("$comment") or _PLAIN[field["type"]], *bounds])


def _mapping_kind(field: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    [values] = field.get("patternProperties", {"": field.get("additionalProperties")}).values()
    key = field.get("propertyNames", {}).get("$comment", "name")
    return f"mapping, {key} to {_kind(values, models)}"


def _functions() -> str:
    names = ", ".join(f"`{name}`" for name in sorted(FUNCTIONS))
    return (
        "### Functions of `features.from_event`\n\n"
        "Besides the operators, `CASE`, `CAST`, `TRY_CAST`, `COALESCE`, `IN`, `BETWEEN`, `LIKE`, `IS NULL`, "
        f"`EXTRACT` and `AT TIME ZONE`, with DuckDB's meaning:\n\n{names}."
    )


def _params() -> str:
    head = "### Parameters of `training.params`\n\n| parameter | what it takes |\n|---|---|\n"
    return head + "\n".join(f"| `{name}` | {kind.wanted} |" for name, kind in lightgbm_params.ALLOWED.items())


def _coming() -> str:
    lines = [
        f"- `{'.'.join(map(str, path))}`"
        + (f": {', '.join(f'`{value}`' for value in sorted(values))}" if values else "")
        for path, values in NOT_AVAILABLE_YET.items()
    ]
    return (
        "### Not available yet\n\nThese fields, and these values of fields, are refused, and the message "
        "says that they are not available yet (`*` is any name or place in a list):\n\n" + "\n".join(lines)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Reference of the fields of a pipeline's YAML.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it is stale")
    made = {PAGE: with_reference(PAGE.read_text("utf-8")), SCHEMA: schema_text()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    if parser.parse_args().check:
        for path in stale:
            print(f"{path} is stale: run python -m mlops_pipelines.spec_reference", file=sys.stderr)
        sys.exit(1 if stale else 0)
    for path in stale:
        path.write_text(made[path], "utf-8")


if __name__ == "__main__":
    main()
