"""Reads a pipeline's `defs.yaml` and its contract, and names every problem with its line."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from mlops_pipelines.errors import UserError
from mlops_pipelines.features.views import compile_view
from mlops_pipelines.ingest.contract import load_contract
from mlops_pipelines.spec import PipelineSpec, SharedViews, TriedPolicy, format_duration
from mlops_pipelines.spec_checks import check_policy, check_shared_views, check_used_views, cross_check
from mlops_pipelines.spec_wording import alternatives, shown
from mlops_pipelines.yaml_source import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.spec_checks import Findings
    from mlops_pipelines.yaml_source import Place, Problem, YamlSource

_Standing = TypeVar("_Standing", bound=BaseModel)

PIPELINES = Path(__file__).parent / "pipelines"
COMPONENT_TYPE = "mlops_pipelines.LearningLoop"
# The last two belong to Dagster, which reads them itself.
_FILE_KEYS = ("type", "attributes", "requirements", "post_processing")


@dataclass(frozen=True)
class LoadedSpec:
    """A pipeline as its folder declares it: checked, with its contract. path: its `defs.yaml`.

    shared: the views it uses of shared files. owners: the other pipelines whose views these are, by name,
    without what they use themselves.
    """

    spec: PipelineSpec
    contract: Contract
    path: Path
    shared: tuple[CompiledView, ...] = ()
    owners: Mapping[str, LoadedSpec] = field(default_factory=dict)


def load_spec(path: Path) -> LoadedSpec:
    """The pipeline of a `defs.yaml`, with the contract and the shared views it names.

    Raises one UserError that lists every problem as `FILE:LINE:COL path.to.field: what is wrong`: those of
    shared views when there are no others.
    """
    source = read_yaml(path)
    return _with_shared_views(source, _load_alone(source))


def _load_alone(source: YamlSource) -> LoadedSpec:
    """The pipeline without shared views. Raises as `load_spec` does."""
    path = source.path
    if not isinstance(source.data, dict):
        text = f"a mapping with type and attributes is needed, not {shown(source.data)}"
        raise _refusal(path, [source.problem((), text)])
    problems = [*source.repeated, *_file_problems(source)]
    try:
        spec = PipelineSpec.model_validate(source.data.get("attributes", {}))
    except ValidationError as error:
        raise _refusal(path, [*problems, *_shape_problems(source, error)]) from None
    contract = _contract(source, spec, problems)
    problems += _located(source, cross_check(spec, contract))
    if problems:
        raise _refusal(path, problems)
    return LoadedSpec(spec, contract, path)


# Shared views


def _with_shared_views(source: YamlSource, user: LoadedSpec) -> LoadedSpec:
    """The pipeline with the views that it names of shared files. Raises UserError with every problem."""
    used: list[tuple[Place, CompiledView]] = []
    owners: dict[str, LoadedSpec] = {}
    problems: list[Problem] = []
    elsewhere: list[str] = []
    for index, shared in enumerate(user.spec.features.shared):
        place: Place = ("features", "shared", index)
        try:
            views, owner = _load_shared(_beside(user.path, shared.file), user)
        except UserError as error:
            text = f"{shared.file} cannot be used"
            problems.append(source.problem(("attributes", *place, "file"), text))
            elsewhere.append(error.message)
            continue
        if owner.path != user.path:
            owners[owner.spec.name] = owner
        for position, name in enumerate(shared.views or views):
            at = (*place, "views", position) if shared.views else place
            if name in views:
                used.append((at, views[name]))
            else:
                text = f"{name} is not a view of {shared.file}{alternatives(name, [*views])}"
                problems.append(source.problem(("attributes", *at), text))
    problems += _located(source, check_used_views(used, user.spec, user.contract))
    if problems:
        raise _refusal(user.path, problems, elsewhere)
    return replace(user, shared=tuple(view for _, view in used), owners=owners)


def _load_shared(path: Path, user: LoadedSpec) -> tuple[dict[str, CompiledView], LoadedSpec]:
    """The views of a shared file by name, and the pipeline they are of.

    Raises UserError that lists every problem of the file, or of that pipeline.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}")
    source = read_yaml(path)
    if not isinstance(source.data, dict):
        text = f"a mapping with pipeline and views is needed, not {shown(source.data)}"
        raise _refusal(path, [source.problem((), text)])
    problems = [*source.repeated]
    try:
        shared = SharedViews.model_validate(source.data)
    except ValidationError as error:
        raise _refusal(path, [*problems, *_shape_problems(source, error, ())]) from None
    try:
        owner = _owner(_beside(path, shared.pipeline) / "defs.yaml", user)
    except UserError as error:
        found = source.problem(("pipeline",), f"{shared.pipeline} is no pipeline that can be loaded")
        raise _refusal(path, [*problems, found], [error.message]) from error
    problems += _located(source, check_shared_views(shared.views, owner.spec, owner.contract), ())
    if problems:
        raise _refusal(path, problems)
    of = None if owner.path == user.path else owner.spec.name
    compiled = (compile_view(view, owner.spec, owner.contract) for view in shared.views)
    return {view.name: replace(view, pipeline=of) for view in compiled}, owner


def _owner(defs: Path, user: LoadedSpec) -> LoadedSpec:
    """The pipeline whose views a shared file holds. Raises UserError if it cannot be loaded."""
    if defs == _beside(user.path, user.path.name):
        return user
    if not defs.is_file():
        raise UserError(f"There is no file {defs}")
    # Without what it uses itself of shared files: so no two of them can wait for each other.
    owner = _load_alone(read_yaml(defs))
    if owner.spec.name == user.spec.name:
        raise UserError(f"Two pipelines are called {owner.spec.name}: {defs} and {user.path}")
    return owner


def _beside(path: Path, relative: str) -> Path:
    """A path relative to the folder of a file, absolute and without steps upwards.

    Raises UserError if it leads out of the folder of the pipelines from within.
    """
    found, home = (Path(os.path.abspath(one)) for one in (path.parent / relative, path))
    if home.is_relative_to(PIPELINES) and not found.is_relative_to(PIPELINES):
        raise UserError(f"{relative} leads out of {PIPELINES}")
    return found


def _contract(source: YamlSource, spec: PipelineSpec, problems: Sequence[Problem]) -> Contract:
    """The contract a spec names. Raises UserError with the problems so far and those of the contract."""
    path = source.path.parent / spec.contract
    if not path.is_file():
        missing = source.problem(("attributes", "contract"), f"there is no file {path}")
        text = _listed(source.path, [*problems, missing])
        raise UserError(text, remedy=f"mlops contract infer FILE > {path}")
    try:
        return load_contract(path)
    except UserError as error:
        if problems:
            text = f"{_listed(source.path, problems)}\n{error.message}"
            raise UserError(text, remedy=error.remedy) from error
        raise


def load_policy(path: Path, spec: PipelineSpec) -> PipelineSpec:
    """The pipeline with the triggers of a file, if it has any, and what it says of the policy; the rest
    stays.

    Raises one UserError that lists every problem with its line.
    """
    source = read_yaml(path)
    if not isinstance(source.data, dict):
        text = f"a mapping with triggers and policy is needed, not {shown(source.data)}"
        raise _refusal(path, [source.problem((), text)])
    problems = [*source.repeated, *_empty_parts(source, source.data, ("triggers",), ())]
    try:
        given = TriedPolicy.model_validate(source.data)
    except ValidationError as error:
        raise _refusal(path, [*problems, *_shape_problems(source, error, ())]) from None
    policy = _said_anew(spec.policy, given.policy) if given.policy else spec.policy
    tried = spec.model_copy(update={"triggers": given.triggers or spec.triggers, "policy": policy})
    problems += _located(source, check_policy(tried), ())
    if problems:
        raise _refusal(path, problems)
    return tried


def _said_anew(standing: _Standing, given: BaseModel) -> _Standing:
    """What stands, with all that was given in its place; of parts of it, too."""
    anew = {}
    for name in given.model_fields_set:
        before, now = getattr(standing, name), getattr(given, name)
        both = isinstance(before, BaseModel) and isinstance(now, BaseModel)
        anew[name] = _said_anew(before, now) if both else now
    return standing.model_copy(update=anew)


def find_specs(root: Path = PIPELINES) -> list[Path]:
    """Every `defs.yaml` below a folder that declares a pipeline, sorted; one that is not YAML included."""
    return [path for path in sorted(root.rglob("defs.yaml")) if _declares_pipeline(path)]


def pipeline_names(root: Path = PIPELINES) -> list[str]:
    """Names of the pipelines below a folder, sorted.

    Raises UserError for a file that cannot be read: it may be any pipeline's.
    """
    if unread := list(_unreadable(root)):
        raise UserError("\n".join(unread), remedy="mend what cannot be read")
    return sorted({found for path in find_specs(root) if (found := _declared_name(path)) is not None})


def load_pipeline(name: str, root: Path = PIPELINES) -> LoadedSpec:
    """The pipeline of this name below a folder.

    Raises UserError that names the pipelines there are and the files that cannot be read, or the two files
    that claim one name, and whatever `load_spec` raises.
    """
    named = [(found, path) for path in find_specs(root) if (found := _declared_name(path)) is not None]
    paths = [path for found, path in named if found == name]
    if len(paths) > 1:
        raise UserError(
            f"Two pipelines are called {name}: {paths[0]} and {paths[1]}",
            expected="a name of its own for every pipeline",
        )
    if not paths:
        known = sorted({found for found, _ in named})
        unread = list(_unreadable(root))
        raise UserError(
            "\n".join([f"There is no pipeline {shown(name)}{alternatives(name, known)}", *unread]),
            remedy="mend what cannot be read"
            if unread
            else f"give one of these names, or add a folder with a defs.yaml under {root}",
        )
    return load_spec(paths[0])


def checked(name: str | None = None, root: Path = PIPELINES) -> dict[str, str | None]:
    """Of the pipeline of this name, or of all below a folder: what is wrong with each, or None.

    By name, or by file where that says none. Raises UserError if there is no pipeline of this name.
    """
    found: dict[str, str | None] = {}
    for path in find_specs(root):
        declared = _declared_name(path)
        if name is None or declared == name:
            try:
                # By name, since two files may claim it.
                _ = load_pipeline(declared, root) if declared else load_spec(path)
                found[declared or str(path)] = None
            except UserError as error:
                found[declared or str(path)] = str(error)
    if name is not None and not found:
        load_pipeline(name, root)
    return found


def hash_of(part: object) -> str:
    """SHA-256, hexadecimal, of a part of a spec: of its canonical JSON, so the order of keys says nothing.

    part: models, and whatever JSON can hold of them, dates and durations. Raises TypeError for the rest.
    """
    text = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON schema of a pipeline's `defs.yaml`, for editors. What fields say together is not in it."""
    attributes = PipelineSpec.model_json_schema()
    definitions = attributes.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of mlops_pipelines",
        "type": "object",
        "properties": {
            "type": {"const": COMPONENT_TYPE},
            "attributes": attributes,
            "requirements": {"type": "object"},
            "post_processing": {"type": "object"},
        },
        "required": ["type", "attributes"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _as_json(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return format_duration(value)
    raise TypeError(f"{type(value).__name__} is no part of a spec")


def _refusal(path: Path, problems: Sequence[Problem], elsewhere: Sequence[str] = ()) -> UserError:
    text = "\n".join([_listed(path, problems), *elsewhere])
    return UserError(text, remedy="docs/pipeline.md, which describes every field")


def _listed(path: Path, problems: Sequence[Problem]) -> str:
    listed = sorted(problems, key=lambda problem: (problem.line, problem.column))
    count = "1 problem" if len(listed) == 1 else f"{len(listed)} problems"
    return "\n".join([f"{path} has {count}:", *map(str, listed)])


def _located(source: YamlSource, findings: Findings, below: Place = ("attributes",)) -> Iterator[Problem]:
    for found in findings:
        text = found.text
        if found.first is not None:
            text += f"; first in line {source.problem((*below, *found.first), '').line}"
        yield source.problem((*below, *found.place), text, at_key=found.at_key)


def _file_problems(source: YamlSource) -> Iterator[Problem]:
    """What is wrong around the attributes."""
    for key in source.data:
        if key not in _FILE_KEYS:
            yield source.problem(
                (key,), f"{key} is not a key here{alternatives(key, _FILE_KEYS)}", at_key=True
            )
    given = source.data.get("type")
    if given != COMPONENT_TYPE:
        yield source.problem(("type",), f"{shown(given)} is not a pipeline (allowed: {COMPONENT_TYPE})")
    for place, text in source.scalars.items():
        # Dagster would resolve them; this file is read without Dagster too.
        if "{{" in text and place[:1] == ("attributes",):
            yield source.problem(place, f"{shown(text)}: templates are not resolved in a pipeline's YAML")
    yield from _empty_parts(source, source.data.get("attributes"), ("gates", "triggers"))


def _empty_parts(
    source: YamlSource, attributes: object, parts: Sequence[str], below: Place = ("attributes",)
) -> Iterator[Problem]:
    """Gates and triggers that are named and empty: they would be none, and say nothing of it."""
    for part in parts:
        declared = attributes.get(part) if isinstance(attributes, dict) else None
        for name, value in declared.items() if isinstance(declared, dict) else ():
            if value is None:
                text = "nothing is declared here; write {} for its defaults, or leave it out"
                yield source.problem((*below, part, name), text)


def _shape_problems(
    source: YamlSource, error: ValidationError, below: Place = ("attributes",)
) -> Iterator[Problem]:
    for found in error.errors(include_url=False):
        place = (*below, *found["loc"])
        text = found["msg"].removeprefix("Value error, ")
        # An unknown key is marked itself; everything else at its value.
        yield source.problem(place, text, at_key=text.startswith(f"{place[-1]} is not "))


def _declares_pipeline(path: Path) -> bool:
    try:
        data = read_yaml(path).data
    except UserError:
        return True  # whoever loads it is told what is wrong with it
    return isinstance(data, dict) and data.get("type") == COMPONENT_TYPE


def _unreadable(root: Path) -> Iterator[str]:
    """What is wrong with each `defs.yaml` below a folder that is not YAML: it may be the one looked for."""
    for path in find_specs(root):
        try:
            read_yaml(path)
        except UserError as error:
            yield error.message


def _declared_name(path: Path) -> str | None:
    try:
        attributes = read_yaml(path).data["attributes"]
    except (UserError, KeyError, TypeError):
        return None
    name = attributes.get("name") if isinstance(attributes, dict) else None
    return name if isinstance(name, str) else None
