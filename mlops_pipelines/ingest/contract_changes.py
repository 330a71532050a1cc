"""What changed between two versions of a contract, whom it breaks, and what stands on the columns."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlops_pipelines.spec_checks import expression_columns
from mlops_pipelines.sql_expressions import judge_expressions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_pipelines.ingest.contract import ColumnRule, Contract, StreamRules
    from mlops_pipelines.spec import Model, PipelineSpec


@dataclass(frozen=True)
class Change:
    """One difference between two contracts.

    column: None where it is about a whole stream, or all of them ("" as the stream). what: a sentence.
    breaks_producers: rows or files that kept the old contract may break the new one. breaks_readers: what
    reads the column may find something else than before. dependents: what reads it.
    """

    stream: str
    column: str | None
    what: str
    breaks_producers: bool = False
    breaks_readers: bool = False
    dependents: tuple[str, ...] = ()

    @property
    def is_breaking(self) -> bool:
        return self.breaks_producers or self.breaks_readers

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "breaking": self.is_breaking}


def changes(
    old: Contract, new: Contract, dependents: Mapping[tuple[str, str], tuple[str, ...]] | None = None
) -> list[Change]:
    """Every difference, stream by stream in the old contract's order, then what is new.

    dependents: what reads a column, by stream and column, as `dependents_of` gives it. Pure.
    """
    return [
        Change(
            stream,
            column,
            what,
            producers,
            readers,
            tuple((dependents or {}).get((stream, column or ""), ())),
        )
        for stream, column, what, producers, readers in _differences(old, new)
    ]


def dependents_of(spec: PipelineSpec, contract: Contract) -> dict[tuple[str, str], tuple[str, ...]]:
    """What of a pipeline reads each column: its roles, features, views and gates, by stream and column."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for stream, roles in _roles(spec).items():
        for role, column in roles.items():
            if column is not None:
                found[stream, column].append(role)
    for name, judged in judge_expressions(
        spec.features.from_event, expression_columns(spec, contract)
    ).items():
        for column in judged.columns:
            found["events", column].append(f"feature {name}")
    for view in spec.features.views:
        words = f"view {view.name} ({len(view.feature_names)} features)"
        columns = [("events", key) for key in view.keys]
        columns += [(view.of, column) for column in (*view.aggregate, *view.last)]
        for place in dict.fromkeys(columns):
            found[place].append(words)
    for column in spec.gates.slices.by if spec.gates.slices else ():
        found["events", column].append("gate slices")
    return {place: tuple(dict.fromkeys(words)) for place, words in found.items()}


def features_of(spec: PipelineSpec, contract: Contract, stream: str, column: str) -> tuple[str, ...]:
    """Features that are computed from a column, be it as value or as key."""
    judged = judge_expressions(spec.features.from_event, expression_columns(spec, contract))
    names = [name for name, one in judged.items() if stream == "events" and column in one.columns]
    for view in spec.features.views:
        if stream == "events" and column in view.keys:
            names += view.feature_names
        elif view.of == stream:
            names += [name for name in view.feature_names if name.startswith(f"{view.name}_{column}_")]
    return tuple(dict.fromkeys(names))


def _roles(spec: PipelineSpec) -> dict[str, dict[str, str | None]]:
    """Columns that play a role, by stream and role."""
    events, labels = spec.events, spec.labels
    return {
        "events": {
            "events.id": events.id,
            "events.time": events.time,
            "events.decide_at": events.decide_at,
            "events.arrived": events.arrived,
            "events.produced": events.produced,
        },
        "labels": {
            "labels.id": labels.id or events.id,
            "labels.value": labels.value,
            "labels.time": labels.time,
            "labels.arrived": labels.arrived,
        },
        **{
            name: {
                **{f"references.{name}.keys[{place}]": key for place, key in enumerate(reference.keys)},
                f"references.{name}.time": reference.time,
                f"references.{name}.arrived": reference.arrived,
            }
            for name, reference in spec.references.items()
        },
    }


_Difference = tuple[str, str | None, str, bool, bool]


def _differences(old: Contract, new: Contract) -> Iterator[_Difference]:
    """Stream, column, what changed, whether it breaks producers, whether it breaks readers."""
    for stream in old.streams:
        if stream not in new.streams:
            yield stream, None, "the stream is gone", True, True
            continue
        before, after = old.rules_of(stream), new.rules_of(stream)
        for column, what, producers, readers in _columns_changed(before.columns, after.columns):
            yield stream, column, what, producers, readers
        for what, producers, readers in _rules_changed(before, after):
            yield stream, None, what, producers, readers
    for stream in new.streams:
        if stream not in old.streams:
            yield stream, None, "the stream is new", False, False
    for name in ("reject_share_halts", "reject_rows_allowed", "file_size_halts"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield "", None, f"{name} was {was:g} and is {now:g}", now < was, False


def _columns_changed(
    old: Mapping[str, ColumnRule], new: Mapping[str, ColumnRule]
) -> Iterator[tuple[str, str, bool, bool]]:
    for column, rule in old.items():
        if column not in new:
            yield column, "the column is gone", False, True
            continue
        for what, producers, readers in _changed(rule, new[column]):
            yield column, what, producers, readers
    for column in new:
        if column not in old:
            yield column, "the column is new: a file without it is refused", True, False


def _changed(old: ColumnRule, new: ColumnRule) -> Iterator[tuple[str, bool, bool]]:
    """What changed of a column's rule, whether it breaks producers, whether it breaks readers."""
    if old.type != new.type:
        yield f"type was {old.type} and is {new.type}", True, True
    if old.nullable != new.nullable:
        words = "may be missing now" if new.nullable else "may no longer be missing"
        yield words, old.nullable, new.nullable
    if old.unit != new.unit:
        yield f"unit was {old.unit or 'not given'} and is {new.unit or 'not given'}", True, True
    if old.type == new.type:
        yield from _bound_changed("min", old.min, new.min, up=True)
        yield from _bound_changed("max", old.max, new.max, up=False)
        if set(old.one_of) != set(new.one_of):
            yield from _set_changed(old, new)
    if old.pattern != new.pattern:
        # Whether one pattern lets through all that another did is not decided here.
        words = f"pattern was {old.pattern or 'not given'} and is {new.pattern or 'not given'}"
        yield words, new.pattern is not None, old.pattern is not None
    if old.on_fail != new.on_fail:
        yield f"on_fail was {old.on_fail} and is {new.on_fail}", new.on_fail == "halt", False
    if old.batch != new.batch:
        yield _rule_changed("batch", old.batch, new.batch)
    if old.sensitive != new.sensitive:
        yield f"is {'now' if new.sensitive else 'no longer'} sensitive", False, False


def _rules_changed(old: StreamRules, new: StreamRules) -> Iterator[tuple[str, bool, bool]]:
    """What changed of the rules of rows and files."""
    for name in {**old.rows, **new.rows}:
        if old.rows.get(name) != new.rows.get(name):
            yield _rule_changed(f"rows.{name}", old.rows.get(name), new.rows.get(name))
    if old.file != new.file:
        yield _rule_changed("file", old.file, new.file)


def _rule_changed(name: str, old: Model | None, new: Model | None) -> tuple[str, bool, bool]:
    """Whether one rule is stricter than the other is not decided here: either side may be broken."""

    def words(rule: Model | None) -> str:
        return "not given" if rule is None else str(rule.model_dump(mode="json", exclude_defaults=True))

    return f"{name} was {words(old)} and is {words(new)}", new is not None, old is not None


def _bound_changed(name: str, old: Any, new: Any, *, up: bool) -> Iterator[tuple[str, bool, bool]]:
    """up: whether a higher bound is the stricter one."""
    if old == new:
        return
    stricter = new is not None and (old is None or (new > old) == up)
    words = f"{name} was {'not given' if old is None else old} and is {'not given' if new is None else new}"
    yield words, stricter, not stricter


def _set_changed(old: ColumnRule, new: ColumnRule) -> Iterator[tuple[str, bool, bool]]:
    gone = [str(value) for value in old.one_of if value not in new.one_of]
    come = [str(value) for value in new.one_of if value not in old.one_of]
    if not new.one_of:
        yield "one_of is gone: any value passes", False, True
    elif not old.one_of:
        yield f"one_of is new: only {', '.join(come)} pass", True, False
    else:
        if gone:
            yield f"one_of no longer has {', '.join(gone)}", True, False
        if come:
            yield f"one_of now has {', '.join(come)}", False, True
