"""What changed between two versions of a contract, whom it breaks, and what stands on the columns."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlops_pipelines.features.views import compile_views
from mlops_pipelines.spec import format_size
from mlops_pipelines.spec_checks import columns_by_feature
from mlops_pipelines.sql_expressions import judge_expressions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.ingest.contract import ColumnRule, Contract, StreamRules
    from mlops_pipelines.spec import Model, PipelineSpec


# Without them there are no examples to learn from, nor to score; "" stands for all streams.
_EVERYTHING = ("events", "labels", "")


@dataclass(frozen=True)
class Change:
    """One difference between two contracts.

    column: None where it is about rows, files or a whole stream, or all of them ("" as the stream). what: a
    sentence. breaks_producers: rows or files that kept the old contract may break the new one.
    breaks_readers: what reads the column may find something else than before. dependents: what reads it.
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
    old: Contract,
    new: Contract,
    dependents: Callable[[str, Sequence[str]], Iterable[str]] | None = None,
) -> list[Change]:
    """Every difference, stream by stream in the old contract's order, then what is new.

    dependents: what reads some columns of a stream, as `dependents_on` says it. Pure.
    """
    return [
        Change(
            one.stream,
            one.column,
            one.what,
            one.producers,
            one.readers,
            tuple(dependents(one.stream, one.columns)) if dependents else (),
        )
        for one in _differences(old, new)
    ]


def dependents_of(
    spec: PipelineSpec, contract: Contract, shared: Sequence[CompiledView] = ()
) -> dict[tuple[str, str], tuple[str, ...]]:
    """What of a pipeline reads each column: its roles, features, views and gates, by stream and column.

    shared: views besides those of the spec, which it uses or others use of it.
    """
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for stream, roles in _roles(spec).items():
        for role, column in roles.items():
            if column is not None:
                found[stream, column].append(role)
    for name, own in columns_by_feature(spec, contract).items():
        for column in own:
            found["events", column].append(f"feature {name}")
    for view in (*compile_views(spec, contract), *shared):
        words = f"view {view.name} ({len(view.columns)} features)"
        read = _read_by(view, spec).values()
        for place in dict.fromkeys(place for places in read for place in places):
            found[place].append(words)
    for column in spec.gates.slices.by if spec.gates.slices else ():
        found["events", column].append("gate slices")
    return {place: tuple(dict.fromkeys(words)) for place, words in found.items()}


def dependents_on(
    found: Mapping[tuple[str, str], tuple[str, ...]], stream: str, columns: Sequence[str]
) -> tuple[str, ...]:
    """What reads any of the columns, of what `dependents_of` found.

    Without columns, what stands on the stream as a whole: of events, labels and all streams ("") that is
    everything but the roles of other streams.
    """
    places = [(stream, column) for column in columns] or [place for place in found if place[0] == stream]
    words = [one for place in places for one in found.get(place, ())]
    if not columns and stream in _EVERYTHING:
        roles = tuple(f"{other}." for other in ("events", "labels", "references") if stream)
        words += [one for rest in found.values() for one in rest if not one.startswith(roles)]
    return tuple(dict.fromkeys(words))


def features_of(
    spec: PipelineSpec,
    contract: Contract,
    stream: str,
    columns: Sequence[str],
    shared: Sequence[CompiledView] = (),
) -> tuple[str, ...]:
    """Features that are computed from any of the columns, be it as value or as key.

    Without columns, those that stand on the stream as a whole, as with `dependents_on`.
    """
    everything = not columns and stream in _EVERYTHING
    names = [
        name
        for name, own in columns_by_feature(spec, contract).items()
        if everything or (stream == "events" and not set(columns).isdisjoint(own))
    ]
    for view in (*compile_views(spec, contract), *shared):
        names += [
            name
            for name, places in _read_by(view, spec).items()
            if everything or any(of == stream and (not columns or one in columns) for of, one in places)
        ]
    return tuple(dict.fromkeys(names))


def _read_by(view: CompiledView, spec: PipelineSpec) -> dict[str, list[tuple[str, str]]]:
    """By feature, the columns of this pipeline's contract that it is made of, with their streams."""
    keys = [("events", key) for key in view.keys]
    if view.pipeline is not None:
        return {one.name: keys for one in view.columns}
    names = {
        "labels": {"label": spec.labels.value, "event_id": spec.labels.id or spec.events.id},
        "events": {"event_id": spec.events.id},
    }.get(view.source, {})
    columns = {
        **{one.name: one.column for one in view.windowed},
        **{one.name: one.column for one in view.last},
    }
    return {name: [*keys, (view.source, names.get(of) or of)] for name, of in columns.items()}


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


@dataclass(frozen=True)
class _Difference:
    """One difference. columns: those it is about, none where that is the whole stream."""

    stream: str
    column: str | None
    what: str
    producers: bool
    readers: bool
    columns: tuple[str, ...] = ()


def _differences(old: Contract, new: Contract) -> Iterator[_Difference]:
    for stream in old.streams:
        if stream not in new.streams:
            yield _Difference(stream, None, "the stream is gone", True, True)
            continue
        before, after = old.rules_of(stream), new.rules_of(stream)
        for column, what, producers, readers in _columns_changed(before.columns, after.columns):
            yield _Difference(stream, column, what, producers, readers, (column,))
        for name in {**before.rows, **after.rows}:
            if before.rows.get(name) != after.rows.get(name):
                changed = _rule_changed(f"rows.{name}", before.rows.get(name), after.rows.get(name))
                columns = dict.fromkeys([*_columns_read(before, name), *_columns_read(after, name)])
                yield _Difference(stream, None, *changed, tuple(columns))
        if before.file != after.file:
            yield _Difference(stream, None, *_rule_changed("file", before.file, after.file))
    for stream in new.streams:
        if stream not in old.streams:
            yield _Difference(stream, None, "the stream is new", False, False)
    for name in ("reject_share_halts", "reject_rows_allowed", "file_size_halts"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            shown = format_size if name == "file_size_halts" else str
            yield _Difference("", None, f"{name} was {shown(was)} and is {shown(now)}", now < was, False)


def _columns_read(rules: StreamRules, name: str) -> tuple[str, ...]:
    """Columns that a rule of rows reads, if there is one of that name."""
    if name not in rules.rows:
        return ()
    types = {column: rule.type for column, rule in rules.columns.items()}
    return judge_expressions({name: rules.rows[name].holds}, types)[name].columns


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
        what, producers, readers = _rule_changed("batch", old.batch, new.batch)
        # With `others_at_most`, rows pass that `one_of` alone rejects.
        others = _others_at_most(old) != _others_at_most(new)
        yield what, producers or (others and bool(new.one_of)), readers or (others and bool(old.one_of))
    if old.sensitive != new.sensitive:
        yield f"is {'now' if new.sensitive else 'no longer'} sensitive", False, False


def _others_at_most(rule: ColumnRule) -> float | None:
    return rule.batch.others_at_most if rule.batch else None


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
