"""Pydantic's findings in the words of the pipeline's YAML: what is wrong, and what is allowed."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails, InitErrorDetails

Step = str | int

# Names told of a longer list.
MOST_NAMED = 10

# Described in the design and not built: a user who asks for one of these must hear so, not "unknown".
# By path (`*` is any step): None is the key itself, a set the values of the field.
NOT_AVAILABLE_YET: Mapping[tuple[Step, ...], frozenset[str] | None] = {
    ("partitions", "every"): frozenset({"hour"}),
}

_SHAPES = {
    r"^[a-z][a-z0-9_]{0,62}$": (
        "a name: a lower-case letter, then at most 62 lower-case letters, digits and underscores"
    ),
    r"^[A-Za-z_][A-Za-z0-9_]{0,127}$": (
        "a column: letters, digits and underscores, not starting with a digit"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.yaml$": "a .yaml file beside this one, such as contract.yaml",
    r"^(team:.+|[^@\s]+@[^@\s]+\.[^@\s]+)$": "team:NAME or an e-mail address",
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "module:name, such as my_pipelines.source:Orders",
}

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def in_plain_words(error: ValidationError, model: type[BaseModel], value: Any) -> list[InitErrorDetails]:
    """The same errors at the same places, each with a sentence of ours.

    model: the model that was validated; value: what it was given. The type of every error is
    `value_error`, which whoever adds to the errors (Dagster adds file and line) can build again.
    """
    by_place: dict[tuple[Step, ...], list[ErrorDetails]] = {}
    for found in error.errors(include_url=False):
        # A list whose members are wrong is called too short as well: the members' errors say it.
        if found["type"] != "too_short" or not found["input"]:
            by_place.setdefault(_place(found, value), []).append(found)
    return [
        {
            "type": "value_error",
            "loc": place,
            "input": errors[0]["input"],
            "ctx": {"error": ValueError(_sentence(errors, place, model))},
        }
        for place, errors in by_place.items()
    ]


def alternatives(given: object, allowed: Sequence[str]) -> str:
    """`; did you mean X or Y? (allowed: A, B, X, Y)`, the question only where names are close.

    Of a long list the first are named: `(allowed: A, B, ..., and 80 more)`.
    """
    close = get_close_matches(str(given), allowed, n=3, cutoff=0.7)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    more = f", and {len(allowed) - MOST_NAMED} more" if len(allowed) > MOST_NAMED else ""
    return f"{meant} (allowed: {', '.join(allowed[:MOST_NAMED]) or 'none'}{more})"


def shown(value: object) -> str:
    """A value as it stands in a message: quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _place(found: ErrorDetails, value: Any) -> tuple[Step, ...]:
    """The error's path without pydantic's own marks, such as the branch of a union."""
    loc: tuple[Step, ...] = found["loc"]
    place: list[Step] = []
    for step in loc:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            break
        place.append(step)
    if found["type"] == "missing":
        place.append(loc[-1])
    return tuple(place)


def _sentence(errors: Sequence[ErrorDetails], place: tuple[Step, ...], model: type[BaseModel]) -> str:
    found = errors[0]
    if found["type"] in _KINDS:
        # A value that fits no branch of a union is reported once for each branch.
        kinds = [_KINDS[each["type"]] for each in errors if each["type"] in _KINDS]
        hint = _yaml_hint(found["type"], found["input"])
        return f"{shown(found['input'])} is not {' or '.join(kinds)}{hint}"
    if found["type"] == "extra_forbidden":
        return _unknown_key(place, model)
    worded = _WORDED.get(found["type"])
    if worded is not None:
        return worded(found, place)
    return f"{shown(found['input'])}: {found['msg'].replace('Input should', 'must')}"


def _unknown_key(place: tuple[Step, ...], model: type[BaseModel]) -> str:
    allowed = _fields(model, place[:-1])
    if _not_yet(place, None):
        return f"{place[-1]} is not available yet (allowed: {', '.join(allowed)})"
    return f"{place[-1]} is not a key of this part{alternatives(place[-1], allowed)}"


def _unknown_choice(found: ErrorDetails, place: tuple[Step, ...]) -> str:
    allowed = _choices(found["ctx"]["expected"])
    if _not_yet(place, found["input"]):
        return f"{found['input']} is not available yet (allowed: {', '.join(allowed)})"
    return f"{shown(found['input'])} is not allowed{alternatives(found['input'], allowed)}"


def _misshapen(found: ErrorDetails, _: tuple[Step, ...]) -> str:
    pattern = found["ctx"]["pattern"]
    return f"{shown(found['input'])} is not {_SHAPES.get(pattern, f'of the form {pattern}')}"


_WORDED: Mapping[str, Callable[[ErrorDetails, tuple[Step, ...]], str]] = {
    "literal_error": _unknown_choice,
    "missing": lambda found, place: "is missing, and has no default",
    "string_pattern_mismatch": _misshapen,
    "too_short": lambda found, place: "is empty; at least one is needed",
    "value_error": lambda found, place: str(found["ctx"]["error"]),
}


def _choices(expected: str) -> list[str]:
    """The values in pydantic's "'a', 'b' or 'c'"."""
    return [choice.strip().strip("'") for choice in expected.replace(" or ", ", ").split(",")]


def _yaml_hint(kind: str, given: object) -> str:
    # YAML 1.1, which PyYAML reads, takes 1e-3 for a text: it wants the point, and a sign in the exponent.
    if kind == "float_type" and isinstance(given, str) and _reads_as_number(given):
        return f"; write {float(given)!r}, without quotes"
    if kind == "string_type" and isinstance(given, bool):
        return "; YAML reads yes, no, on and off as true and false: put it in quotes"
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _not_yet(place: tuple[Step, ...], given: object) -> bool:
    for path, values in NOT_AVAILABLE_YET.items():
        if len(path) == len(place) and all(p in ("*", s) for p, s in zip(path, place, strict=True)):
            return values is None if given is None else values is not None and given in values
    return False


def _fields(model: type[BaseModel], place: tuple[Step, ...]) -> list[str]:
    """Names of the fields of the model at a path below `model`."""
    for step in place:
        field = model.model_fields.get(str(step))
        if field is not None:
            model = next(_models(field.annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _models(argument)
