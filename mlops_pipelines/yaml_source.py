"""A YAML file as data that still knows the line and column of each of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from mlops_pipelines.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """Line and column, counted from 1: of the key and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where: `str(problem)` is `FILE:LINE:COL path.to.field: text`."""

    file: Path
    line: int
    column: int
    place: Place
    text: str

    def __str__(self) -> str:
        dotted = ".".join(str(step) for step in self.place)
        return f"{self.file}:{self.line}:{self.column} {f'{dotted}: ' if dotted else ''}{self.text}"


@dataclass(frozen=True)
class YamlSource:
    """One YAML document: its data, and by path the marks of its parts and its scalars as written.

    repeated: the keys that stand twice in one mapping. What an alias (`*name`) repeats is marked where the
    anchor stands, at its first path only.
    """

    path: Path
    data: Any
    marks: Mapping[Place, Mark]
    scalars: Mapping[Place, str]
    repeated: tuple[Problem, ...]

    def problem(self, place: Place, text: str, *, at_key: bool = False) -> Problem:
        """A problem at a path, marked at its value (or key), or at the nearest part above that is there."""
        within = place
        while within not in self.marks and within:
            within = within[:-1]
        if within in self.scalars:
            place = within  # a single value where a list may stand
        mark = self.marks[within]
        # What is missing belongs to the mapping around it, which its key names best.
        line, column = mark.value if within == place and not at_key else mark.key
        return Problem(self.path, line, column, place, text)


def read_yaml(path: Path) -> YamlSource:
    """The one YAML document in a file; dates stay texts, as Dagster reads them.

    Raises UserError, with line and column, if the file cannot be read, is not UTF-8, is not YAML, is
    empty or holds more than one document.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8, at byte {error.start}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return _parse(path, text)


# Without timestamps: what a day is, the models say.
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parse(path: Path, text: str) -> YamlSource:
    try:
        # libyaml is eight times as fast; PyYAML's wheels have it.
        loader = yaml.CSafeLoader(text) if yaml.__with_libyaml__ else yaml.SafeLoader(text)
        loader.yaml_implicit_resolvers = _RESOLVERS
        node = loader.get_single_node()
        if node is None:
            raise UserError(f"{path}:1:1 the file is empty")
        marks: dict[Place, Mark] = {}
        scalars: dict[Place, str] = {}
        # Before the data are made: making them merges `<<` into the mapping it stands in.
        repeated = tuple(_walk(path, node, marks, scalars))
        return YamlSource(path, loader.construct_document(node), marks, scalars, repeated)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"{where} not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # the reader's errors carry no mark
        raise UserError(f"{path}: not YAML: {error}") from error


def _walk(
    path: Path, root: yaml.Node, marks: dict[Place, Mark], scalars: dict[Place, str]
) -> Iterator[Problem]:
    """Fills marks and scalars; yields the keys that stand twice in one mapping."""
    seen: set[int] = set()
    pending: list[tuple[Place, yaml.Node, tuple[int, int]]] = [((), root, _position(root))]
    while pending:
        place, node, key = pending.pop()
        if place in marks:
            yield Problem(path, *key, place, f"the key stands twice; first in line {marks[place].key[0]}")
            continue
        marks[place] = Mark(key, _position(node))
        if isinstance(node, yaml.ScalarNode):
            scalars[place] = node.value
        elif id(node) not in seen:  # an anchor may hold itself
            seen.add(id(node))
            # Last in, first out: reversed, the parts are met in the file's order.
            pending.extend(reversed(list(_parts(place, node))))


def _parts(place: Place, node: yaml.Node) -> Iterator[tuple[Place, yaml.Node, tuple[int, int]]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, str(key.value)), value, _position(key)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value, _position(value)


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
