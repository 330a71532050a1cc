"""What the fields of a pipeline's YAML must satisfy together, and beside its contract.

Each check yields findings: a path below `attributes`, and a sentence. None of them stops at its first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from itertools import combinations
from typing import TYPE_CHECKING

from mlops_pipelines import lightgbm_params, outcomes, trainers
from mlops_pipelines.errors import UserError
from mlops_pipelines.spec import LOCAL_HOSTS, TILE, Features, format_duration
from mlops_pipelines.spec_wording import alternatives
from mlops_pipelines.sql_expressions import judge_expressions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.ingest.contract import ColumnRule, Contract
    from mlops_pipelines.spec import (
        ChampionGate,
        Email,
        Kind,
        Labels,
        PerformanceTrigger,
        PipelineSpec,
        Policy,
        QualitySlo,
        Reference,
        Search,
        SkillGate,
        SlicesGate,
        Training,
        Triggers,
        View,
        Watch,
    )
    from mlops_pipelines.yaml_source import Place

DAY = timedelta(days=1)
# Alerts look back a week, in which half of the error budget may go: of a shorter window it is more than half.
LEAST_SLO_WINDOW = timedelta(days=14)

# Assets and tables of every pipeline: a reference, whose table bears its name, may not take one of them.
RESERVED_NAMES = frozenset({
    "champion", "drift_report", "evaluation_report", "events", "examples", "feature_tiles",
    "feedback_report", "labels", "labels_unmatched", "model", "performance_report", "predictions",
    "quarantine", "quarantine_decisions", "retrain_requests", "training_set",
})  # fmt: skip
# Columns of the examples that are no features.
_EXAMPLE_COLUMNS = ("day", "event_id", "event_time", "decision_time", "view_versions", "made_of",
                    "label", "label_time")  # fmt: skip

# Port of mail servers that are encrypted without STARTTLS.
_SMTPS = 465

_ID_TYPES = ("string", "int")
_KEY_TYPES = ("string", "int")
_AGGREGATED_TYPES = ("int", "float", "bool")
_FEATURE_TYPES = ("string", "int", "float", "bool")
_SLICE_TYPES = ("string", "int", "bool")
_OUTCOME_TYPES: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("bool", "int"),
    "number": ("float", "int"),
    "category": ("string",),
}
_OUTCOMES: Mapping[Kind, str] = {
    "binary": "bool, or int with one_of: [0, 1]",
    "number": "float, int",
    "category": "string",
}
_OF_KIND: Mapping[Kind, str] = {
    "binary": "true or false",
    "number": "a number",
    "category": "a category",
}


@dataclass(frozen=True)
class Finding:
    """A path below `attributes`, and what is wrong there; `at_key`: with the key, not its value.

    first: the path of what it repeats, whose line is told.
    """

    place: Place
    text: str
    at_key: bool = False
    first: Place | None = None


Findings = Iterator[Finding]


def cross_check(spec: PipelineSpec, contract: Contract) -> Findings:
    """Everything that is wrong between the fields of a spec, and between it and its contract."""
    yield from _check_partitions(spec)
    yield from _check_landing(spec)
    yield from _check_events(spec, contract)
    yield from _check_labels(spec, contract)
    yield from _check_references(spec, contract)
    yield from _check_replay(spec)
    yield from _check_expressions(spec, contract)
    yield from _check_functions(spec, contract)
    yield from _check_views(spec, contract)
    yield from _check_feature_names(spec)
    yield from check_training(spec)
    yield from _check_gates(spec, contract)
    yield from _check_kind(spec)
    yield from _check_triggers(spec)
    yield from _check_retention(spec)
    yield from _check_alerts(spec)
    yield from _check_slos(spec)


def check_policy(spec: PipelineSpec) -> Findings:
    """What is wrong with the triggers and the policy of a spec whose rest is right."""
    yield from _check_triggers(spec)
    yield from _check_kind(spec)


def check_shared_views(views: tuple[View, ...], spec: PipelineSpec, contract: Contract) -> Findings:
    """What is wrong with the views of a shared file; paths below the file.

    spec, contract: of the pipeline that they are of: they are checked like its own.
    """
    owner = spec.model_copy(update={"features": Features(views=views)})
    for found in (*_check_views(owner, contract), *_check_feature_names(owner)):
        yield replace(found, place=found.place[1:], first=found.first and found.first[1:])


def check_used_views(
    used: Sequence[tuple[Place, CompiledView]], spec: PipelineSpec, contract: Contract
) -> Findings:
    """What is wrong between the views that a pipeline uses of shared files and its own features and events.

    used: each with the path that names it.
    """
    first: dict[str, Place] = {
        view.name: ("features", "views", index) for index, view in enumerate(spec.features.views)
    }
    for place, view in used:
        if first.setdefault(view.name, place) != place:
            yield Finding(place, f"{view.name} stands twice", first=first[view.name])
        if view.pipeline is not None:
            yield from _check_looked_up(place, view, spec, contract)
    yield from _check_feature_names(spec, used)


def expression_columns(spec: PipelineSpec, contract: Contract) -> dict[str, str]:
    """Columns an expression under `from_event` may name, with their contract types.

    When a row was produced and when it arrived are left out: they are no properties of the event, and at
    the decision may still lie ahead.
    """
    left_out = {spec.events.id, spec.events.arrived, spec.events.produced}
    own = {name: rule.type for name, rule in contract.events.columns.items() if name not in left_out}
    return {"event_id": "string", "event_time": "timestamp", "decision_time": "timestamp", **own}


def columns_by_feature(spec: PipelineSpec, contract: Contract) -> dict[str, tuple[str, ...]]:
    """The event's columns that each feature of its own row is made of, be it SQL or Python."""
    judged = judge_expressions(spec.features.from_event, expression_columns(spec, contract))
    return {
        **{name: one.columns for name, one in judged.items()},
        **{name: one.columns for name, one in spec.features.from_python.items()},
    }


# Streams


def _check_partitions(spec: PipelineSpec) -> Findings:
    end = spec.partitions.end
    if end is not None and end <= spec.partitions.start:
        yield Finding(
            ("partitions", "end"),
            f"{end} is not after the start, {spec.partitions.start}; it is the day after the last partition",
        )


def _landing_folders(spec: PipelineSpec) -> dict[tuple[str, ...], str]:
    """Landing folder by path of the field, without the field's own name."""
    return {
        ("events",): spec.events.landing,
        ("labels",): spec.labels.landing,
        **{("references", name): reference.landing for name, reference in spec.references.items()},
    }


def _check_landing(spec: PipelineSpec) -> Findings:
    for (other, its), (place, folder) in combinations(_landing_folders(spec).items(), 2):
        if f"{folder}/".startswith(f"{its}/") or f"{its}/".startswith(f"{folder}/"):
            yield Finding(
                (*place, "landing"),
                f"{folder} and {its} of {'.'.join(other)} overlap; each stream has a folder of its own",
            )


def _check_events(spec: PipelineSpec, contract: Contract) -> Findings:
    events, rules = spec.events, contract.events.columns
    yield from _role(("events", "id"), events.id, rules, _ID_TYPES, of="events")
    yield from _role(("events", "time"), events.time, rules, ("timestamp",), of="events")
    yield from _role(("events", "decide_at"), events.decide_at, rules, ("timestamp",), of="events")
    yield from _role(("events", "arrived"), events.arrived, rules, ("timestamp",), of="events")
    yield from _role(("events", "produced"), events.produced, rules, ("timestamp",), of="events")
    taken = {
        "event_id": events.id,
        "event_time": events.time,
        "decision_time": events.decide_at,
        "arrived_at": events.arrived,
    }
    yield from _taken_names(("events",), taken, rules)


def _check_labels(spec: PipelineSpec, contract: Contract) -> Findings:
    labels, rules = spec.labels, contract.labels.columns
    event_id = labels.id or spec.events.id
    yield from _role(("labels", "id"), event_id, rules, _ID_TYPES, of="labels")
    yield from _role(("labels", "value"), labels.value, rules, None, of="labels")
    yield from _role(("labels", "time"), labels.time, rules, ("timestamp",), of="labels")
    yield from _role(("labels", "arrived"), labels.arrived, rules, ("timestamp",), of="labels")
    yield from _check_outcome(labels, rules)
    if event_id in rules and spec.events.id in contract.events.columns:
        yield from _same_type(
            ("labels", "id"), rules[event_id], contract.events.columns[spec.events.id], "the event's id"
        )
    taken = {
        "event_id": event_id,
        "label": labels.value,
        "label_time": labels.time,
        "arrived_at": labels.arrived,
    }
    yield from _taken_names(("labels",), taken, rules)


def _check_outcome(labels: Labels, rules: Mapping[str, ColumnRule]) -> Findings:
    rule, kind = rules.get(labels.value), labels.kind
    if rule is None:
        return
    place, said = ("labels", "value"), f"{labels.value} is a {rule.type}"
    if rule.type not in _OUTCOME_TYPES[kind]:
        others = [name for name, types in _OUTCOME_TYPES.items() if rule.type in types]
        instead = f"; or labels.kind: {others[0]}" if others else ""
        yield Finding(place, f"{said}, and labels.kind is {kind} (allowed: {_OUTCOMES[kind]}{instead})")
    elif kind == "binary" and rule.type == "int":
        # With others_at_most, rows with values that are not listed pass.
        listed = rule.one_of and not (rule.batch and rule.batch.others_at_most is not None)
        if not ((listed and set(rule.one_of) <= {0, 1}) or (rule.min == 0 and rule.max == 1)):
            yield Finding(
                place,
                f"{labels.value} is an int that the contract does not hold to 0 and 1, and labels.kind is "
                f"binary (allowed: {_OUTCOMES[kind]} and without others_at_most; or labels.kind: number)",
            )


def _check_references(spec: PipelineSpec, contract: Contract) -> Findings:
    for name, reference in spec.references.items():
        place = ("references", name)
        if name in RESERVED_NAMES or name.startswith("landing_"):
            yield Finding(
                place,
                f"{name} is the name of something every pipeline has; rename the reference "
                f"(taken: {', '.join(sorted(RESERVED_NAMES))}, landing_…)",
                at_key=True,
            )
        elif name not in contract.references:
            yield Finding(
                place,
                f"the contract has no columns for {name}{alternatives(name, sorted(contract.references))}",
                at_key=True,
            )
        else:
            yield from _check_reference(place, reference, contract.references[name].columns)
    for name in sorted(set(contract.references) - set(spec.references)):
        yield Finding(
            ("references",),
            f"the contract has columns for {name}, which is not declared here"
            f"{alternatives(name, sorted(spec.references))}",
            at_key=True,
        )


def _check_reference(
    place: tuple[str, ...], reference: Reference, rules: Mapping[str, ColumnRule]
) -> Findings:
    of = f"the reference {place[-1]}"
    for index, key in enumerate(reference.keys):
        yield from _role((*place, "keys", index), key, rules, _KEY_TYPES, of=of)
    yield from _role((*place, "time"), reference.time, rules, ("timestamp",), of=of)
    yield from _role((*place, "arrived"), reference.arrived, rules, ("timestamp",), of=of)
    yield from _repeated((*place, "keys"), reference.keys)
    if reference.time is None and reference.publish_lag:
        yield Finding(
            (*place, "publish_lag"), "a reference without a time is always known; a lag has nothing to add to"
        )
    yield from _taken_names(place, {"ref_time": reference.time, "arrived_at": reference.arrived}, rules)


def _check_replay(spec: PipelineSpec) -> Findings:
    if spec.replay is None:
        return
    module = spec.replay.source.partition(":")[0]
    if not _module_exists(module):
        yield Finding(("replay", "source"), f"there is no module {module}")
    for place, folder in _landing_folders(spec).items():
        if folder != f"landing/{place[-1]}":
            yield Finding(
                (*place, "landing"),
                f"a replay source writes this stream to landing/{place[-1]} (allowed: landing/{place[-1]})",
            )
    timed = {("events",): spec.events.arrived, ("labels",): spec.labels.arrived} | {
        ("references", name): reference.arrived
        for name, reference in spec.references.items()
        if reference.time is not None
    }
    for stream, arrived in timed.items():
        if arrived is None:
            yield Finding(
                (*stream, "arrived"),
                "is missing: a replayed file is not written when its rows arrived, so the rows must say",
            )


def _check_retention(spec: PipelineSpec) -> Findings:
    used = spec.predictions_used_for
    for name in ("predictions", "reports", "landing"):
        kept = getattr(spec.retention, name)
        if kept is not None and kept < used:
            yield Finding(
                ("retention", name),
                f"{format_duration(kept)} is less than {format_duration(used)}: until then rows may still "
                "arrive (lateness), labels mature and triggers measure",
            )


def _check_alerts(spec: PipelineSpec) -> Findings:
    """Sinks that stand twice, and mail that would say a password aloud."""
    sinks = spec.alerts.sinks
    for index, sink in enumerate(sinks):
        place: Place = ("alerts", "sinks", index)
        same = [(one.file, one.webhook, one.email) for one in sinks].index(
            (sink.file, sink.webhook, sink.email)
        )
        if same != index:
            yield Finding(place, "stands twice", first=("alerts", "sinks", same))
        if sink.email is not None:
            yield from _check_email((*place, "email"), sink.email)


def _check_email(place: Place, email: Email) -> Findings:
    if (email.username_env is None) != (email.password_env is None):
        missing = "password_env" if email.password_env is None else "username_env"
        yield Finding((*place, missing), "is missing: a name and a password go together")
    if not email.starttls and email.host not in LOCAL_HOSTS:
        yield Finding(
            (*place, "starttls"),
            f"without it whoever listens reads along (allowed: false with {' or '.join(LOCAL_HOSTS)})",
        )
    if email.port == _SMTPS:
        yield Finding(
            (*place, "port"),
            f"{_SMTPS} speaks TLS from the first byte on, and no STARTTLS (allowed: 587, 25 …)",
        )


def _check_slos(spec: PipelineSpec) -> Findings:
    slos = spec.slos
    if slos is None:
        return
    window = format_duration(slos.window)
    if slos.window % DAY or slos.window < LEAST_SLO_WINDOW:
        yield Finding(
            ("slos", "window"),
            f"{window} is not a whole number of days, or too few for alerts that look back a week "
            f"(allowed: {format_duration(LEAST_SLO_WINDOW)}, 15d …)",
        )
    features = spec.features
    timed = [view for view in features.views if not _is_static(view, spec)]
    if slos.freshness is not None and not timed and not features.shared:
        yield Finding(
            ("slos", "freshness"),
            "there is no view that could be too old: only views of events, labels or a reference with a time "
            "have a max_age",
            at_key=True,
        )
    # A day counts from when it has matured; what is freed before cannot be counted.
    counted = slos.window + spec.labels.matures_after + 2 * DAY
    for name in ("predictions", "reports"):
        kept = getattr(spec.retention, name)
        if kept is not None and kept < counted:
            yield Finding(
                ("slos", "window"),
                f"{window} reach further back than {name} are kept: retention.{name} is "
                f"{format_duration(kept)} (allowed there: {format_duration(counted)} or more)",
            )


def _module_exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


# Features


def _check_expressions(spec: PipelineSpec, contract: Contract) -> Findings:
    features = spec.features
    if not (features.from_event or features.from_python or features.views or features.shared):
        yield Finding(("features",), "there are none; a model needs at least one", at_key=True)
    judged = judge_expressions(spec.features.from_event, expression_columns(spec, contract))
    for name, verdict in judged.items():
        for problem in verdict.problems:
            yield Finding(("features", "from_event", name), problem)


def _check_functions(spec: PipelineSpec, contract: Contract) -> Findings:
    from mlops_pipelines.features.functions import source_of

    visible = expression_columns(spec, contract)
    for name, feature in spec.features.from_python.items():
        place = ("features", "from_python", name)
        try:
            source_of(feature.function)
        except UserError as error:
            yield Finding((*place, "function"), error.message)
        for index, column in enumerate(feature.columns):
            if column not in visible:
                yield Finding(
                    (*place, "columns", index),
                    f"{column} is no column of the event{alternatives(column, [*visible])}",
                )
        yield from _repeated((*place, "columns"), feature.columns)


def _check_views(spec: PipelineSpec, contract: Contract) -> Findings:
    first: dict[str, int] = {}
    for index, view in enumerate(spec.features.views):
        place: Place = ("features", "views", index)
        if first.setdefault(view.name, index) != index:
            found: Place = ("features", "views", first[view.name], "name")
            yield Finding((*place, "name"), f"{view.name} stands twice", first=found)
        yield from _check_keys(place, view, spec, contract)
        yield from _check_shape(place, view, spec)
        yield from _check_view_columns(place, view, spec, contract)


def _check_looked_up(place: Place, view: CompiledView, spec: PipelineSpec, contract: Contract) -> Findings:
    """Whether the events of a pipeline have the keys of a view of another one."""
    rules = contract.events.columns
    what = f"{view.name} of {view.pipeline} is looked up by {', '.join(view.keys)}"
    for key, kind in zip(view.keys, view.key_types, strict=True):
        if key not in rules:
            allowed = alternatives(key, list(rules))
            yield Finding(place, f"{what}; {key} is not a column of the events here{allowed}")
        elif rules[key].type != kind:
            yield Finding(
                place, f"{what}; {key} is a {rules[key].type} here and a {kind} there: they never match"
            )
        elif key == spec.events.id:
            yield Finding(place, f"{what}; {key} names a single event here")


def _check_keys(place: Place, view: View, spec: PipelineSpec, contract: Contract) -> Findings:
    rules = contract.events.columns
    for index, key in enumerate(view.keys):
        # A single key may be written without a list.
        yield from _role((*place, "key", index), key, rules, _KEY_TYPES, nullable=True, of="events")
        if key == spec.events.id:
            yield Finding((*place, "key", index), f"{key} names a single event; take a key that events share")
    yield from _repeated((*place, "key"), view.keys)
    reference = spec.references.get(view.of)
    if reference is None or view.of not in contract.references:
        return
    if len(reference.keys) != len(view.keys):
        yield Finding(
            (*place, "key"),
            f"{view.of} is looked up by {len(reference.keys)} columns, not {len(view.keys)} "
            f"(allowed: one event column for each of {', '.join(reference.keys)})",
        )
        return
    theirs = contract.references[view.of].columns
    for index, (key, their) in enumerate(zip(view.keys, reference.keys, strict=True)):
        if key in rules and their in theirs:
            yield from _same_type((*place, "key", index), rules[key], theirs[their], f"{view.of}.{their}")


def _check_shape(place: Place, view: View, spec: PipelineSpec) -> Findings:
    static = _is_static(view, spec)
    if not view.aggregate and not view.last:
        yield Finding(place, f"view {view.name} has neither aggregate nor last, so it gives no feature")
    if static and view.aggregate:
        yield Finding(
            (*place, "aggregate"), f"{view.of} has no time to take windows over (allowed: last)", at_key=True
        )
    elif view.aggregate and not view.windows:
        yield Finding((*place, "windows"), "is missing: aggregates are taken over windows, such as [6h, 7d]")
    if view.windows and not view.aggregate:
        yield Finding((*place, "windows"), "there is no aggregate to take over them", at_key=True)
    for index, window in enumerate(view.windows):
        if window % TILE:
            yield Finding(
                (*place, "windows", index),
                f"{format_duration(window)} is not a whole number of tiles of {format_duration(TILE)}, which "
                f"it is added up of; take {_whole_tiles(window)} (allowed: whole hours, such as 6h or 7d)",
            )
    yield from _repeated((*place, "windows"), [format_duration(window) for window in view.windows])
    yield from _check_within(place, view, static)


def _is_static(view: View, spec: PipelineSpec) -> bool:
    """Whether a view is of a reference without a time."""
    return view.of in spec.references and spec.references[view.of].time is None


def _whole_tiles(window: timedelta) -> str:
    """The durations around a window that have tiles of their own: `1h or 2h`."""
    below = window // TILE
    return " or ".join(format_duration(tiles * TILE) for tiles in (below, below + 1) if tiles)


def _check_within(place: Place, view: View, static: bool) -> Findings:
    if view.within is None:
        if view.last and not static and not view.lasting:
            yield Finding(
                (*place, "within"), "is missing: say how old a last value may be, such as within: 3h"
            )
    elif static:
        yield Finding((*place, "within"), f"{view.of} has no time to measure an age by", at_key=True)
    elif not view.last and not view.lasting:
        yield Finding((*place, "within"), "there is no last value whose age it could bound", at_key=True)


def _check_view_columns(place: Place, view: View, spec: PipelineSpec, contract: Contract) -> Findings:
    sources = ["events", "labels", *spec.references]
    if view.of not in sources:
        yield Finding(
            (*place, "of"), f"{view.of} is neither a stream nor a reference{alternatives(view.of, sources)}"
        )
    if view.of not in contract.streams:
        return
    rules = contract.columns_of(view.of)
    of = view.of if view.of in ("events", "labels") else f"the reference {view.of}"
    for column, aggregates in view.aggregate.items():
        counted = all(aggregate in ("count", "distinct", "last") for aggregate in aggregates)
        types = _FEATURE_TYPES if counted else _AGGREGATED_TYPES
        yield from _role(
            (*place, "aggregate", column), column, rules, types, of=of, nullable=True, at_key=True
        )
        yield from _repeated((*place, "aggregate", column), aggregates)
    for index, column in enumerate(view.last):
        yield from _role((*place, "last", index), column, rules, _FEATURE_TYPES, of=of, nullable=True)


def _check_feature_names(spec: PipelineSpec, used: Sequence[tuple[Place, CompiledView]] = ()) -> Findings:
    # Without their case: DuckDB, which computes the features, does not look at it.
    taken = dict.fromkeys(_EXAMPLE_COLUMNS, "a column of the examples")
    for place, name in _feature_names(spec, used):
        if name.casefold() in taken:
            yield Finding(place, f"{name} is also the name of {taken[name.casefold()]}", at_key=True)
        else:
            taken[name.casefold()] = f"a feature of {'.'.join(str(step) for step in place)}"


def _feature_names(
    spec: PipelineSpec, used: Sequence[tuple[Place, CompiledView]]
) -> Iterator[tuple[Place, str]]:
    for name in spec.features.from_event:
        yield ("features", "from_event", name), name
    for name in spec.features.from_python:
        yield ("features", "from_python", name), name
    # Of two views of one name that alone is told, where it stands.
    views: set[str] = set()
    for index, view in enumerate(spec.features.views):
        for name in dict.fromkeys(view.feature_names) if view.name not in views else ():
            yield ("features", "views", index), name
        views.add(view.name)
    for place, shared in used:
        for column in shared.columns if shared.name not in views else ():
            yield place, column.name
        views.add(shared.name)


# Learning


def check_training(spec: PipelineSpec) -> Findings:
    """What is wrong with how a pipeline learns, its contract aside."""
    training = spec.training
    for name, span in (("window", training.window), ("holdout", training.holdout)):
        if span % DAY:
            yield Finding(
                ("training", name),
                f"{format_duration(span)} is not a whole number of days (allowed: 1d, 2d …)",
            )
    if training.holdout >= training.window:
        yield Finding(
            ("training", "holdout"),
            f"{format_duration(training.holdout)} leaves nothing of the window to train on "
            f"(allowed: less than {format_duration(training.window)})",
        )
    if training.trainer is not None and (problem := trainers.problem_of(training.trainer)):
        yield Finding(("training", "trainer"), problem)
    for name, reason in lightgbm_params.refusals(training.params) if training.trainer is None else ():
        yield Finding(("training", "params", name), reason)
    yield from _check_tune(training)


def _check_tune(training: Training) -> Findings:
    """Whether each range of a search is one, and its ends are values that the parameter may have."""
    space = training.tune.space if training.tune else {}
    firsts = {name: search.values[0] for name, search in space.items() if search.values}
    for name, search in space.items():
        place: Place = ("training", "tune", "space", name)
        if problem := _no_range(search):
            yield Finding(place, problem)
            continue
        if training.trainer is not None:
            continue
        tried = ({**training.params, **firsts, name: value} for value in search.values)
        reasons = [why for one in tried for of, why in lightgbm_params.refusals(one) if of == name]
        if reasons:
            yield Finding(place, reasons[0])


def _no_range(search: Search) -> str | None:
    if search.choices is not None:
        if search.low is not None or search.high is not None or search.log:
            return "choices stand alone (allowed: low and high, or choices)"
        few = len(set(search.choices)) < len(search.choices) or len(search.choices) < 2
        return "there have to be two choices at least, each once" if few else None
    if search.low is None or search.high is None:
        return "there is no range to search (allowed: low and high, or choices)"
    if search.low >= search.high:
        return f"{search.low:g} is not below the high end (allowed: less than {search.high:g})"
    if search.log and search.low <= 0:
        return f"log needs a low end above 0, and {search.low:g} is not"
    return None


def _check_gates(spec: PipelineSpec, contract: Contract) -> Findings:
    champion, slices = spec.gates.champion, spec.gates.slices
    if champion is not None and champion.min_days > spec.training.holdout / DAY:
        yield Finding(
            ("gates", "champion", "min_days"),
            f"{champion.min_days} days are more than the holdout has (allowed: up to "
            f"{format_duration(spec.training.holdout)})",
        )
    watch = spec.promotion.watch
    if watch is not None and watch.min_days > watch.over / DAY:
        yield Finding(
            ("promotion", "watch", "min_days"),
            f"{watch.min_days} days are more than the watch has (allowed: up to "
            f"{format_duration(watch.over)})",
        )
    if spec.promotion.four_eyes and spec.promotion.approval == "automatic":
        yield Finding(
            ("promotion", "four_eyes"),
            "nobody is asked where approval is automatic (allowed: with approval: human)",
        )
    fairness = spec.gates.fairness
    for gate, by in (("slices", slices and slices.by), ("fairness", fairness and fairness.by)):
        for index, column in enumerate(by or ()):
            place: Place = ("gates", gate, "by", index)
            yield from _role(place, column, contract.events.columns, _SLICE_TYPES, of="events", nullable=True)
        yield from _repeated(("gates", gate, "by"), by or ())


def _check_kind(spec: PipelineSpec) -> Findings:
    """What says nothing of a label of this kind."""
    kind, gates = spec.labels.kind, spec.gates
    performance, watch = spec.triggers.performance, spec.promotion.watch
    quality = spec.slos.quality if spec.slos else None
    measured: tuple[tuple[Place, SkillGate | ChampionGate | SlicesGate | PerformanceTrigger | Watch
                          | QualitySlo | None, Sequence[str]], ...] = (
        (("gates", "skill"), gates.skill, outcomes.SKILLS[kind]),
        (("gates", "champion"), gates.champion, outcomes.LOSSES[kind]),
        (("gates", "slices"), gates.slices, outcomes.SLICED[kind]),
        (("triggers", "performance"), performance, outcomes.SKILLS[kind]),
        (("promotion", "watch"), watch, outcomes.LOSSES[kind]),
        (("slos", "quality"), quality, outcomes.SKILLS[kind]),
    )  # fmt: skip
    for place, declared, allowed in measured:
        if declared is not None and declared.metric not in allowed:
            yield Finding(
                (*place, "metric"),
                f"{declared.metric} is no figure of a label that is {_OF_KIND[kind]} (allowed: "
                f"{', '.join(allowed)})",
            )
    if kind == "number" and gates.champion and "not_worse_by" not in gates.champion.model_fields_set:
        yield Finding(
            ("gates", "champion", "not_worse_by"),
            f"is missing: how much worse a candidate may be is a matter of the unit of {spec.labels.value}",
        )
    if kind == "number" and gates.calibration is not None:
        yield Finding(
            ("gates", "calibration"),
            "a number that is predicted is no probability, and has no calibration error; gates.slices with "
            "r2 says where it is off",
            at_key=True,
        )
    if kind == "number" and spec.triggers.concept_drift is not None:
        yield Finding(
            ("triggers", "concept_drift"),
            "scores that are no probabilities do not say what losses to expect; triggers.performance with "
            "r2 watches them",
            at_key=True,
        )
    if kind != "binary" and gates.fairness is not None:
        yield Finding(
            ("gates", "fairness"),
            f"it compares decisions, and a label that is {_OF_KIND[kind]} has none; gates.slices holds each "
            "group to a quality",
            at_key=True,
        )
    if kind != "binary" and "decision" in spec.model_fields_set:
        yield Finding(
            ("decision",), f"a label that is {_OF_KIND[kind]} has nothing to decide by a score", at_key=True
        )


def _check_triggers(spec: PipelineSpec) -> Findings:
    drift, performance = spec.triggers.drift, spec.triggers.performance
    if drift is not None and drift.watch >= drift.alarm:
        yield Finding(
            ("triggers", "drift", "watch"),
            f"{drift.watch:g} is not below the alarm (allowed: less than {drift.alarm:g})",
        )
    if performance is not None and performance.over % DAY:
        yield Finding(
            ("triggers", "performance", "over"),
            f"{format_duration(performance.over)} is not a whole number of days (allowed: 1d, 2d …)",
        )
    yield from _check_schedule(spec.triggers, spec.policy)


def _check_schedule(triggers: Triggers, policy: Policy) -> Findings:
    """A schedule that the policy would not let anybody keep."""
    schedule = triggers.schedule
    if schedule is None:
        return
    every, place = format_duration(schedule.every), ("triggers", "schedule", "every")
    if schedule.every < policy.cooldown:
        yield Finding(
            place,
            f"{every} is shorter than the cooldown (allowed: {format_duration(policy.cooldown)} or more)",
        )
    budget = policy.budget
    if schedule.every * budget.retrains < budget.per:
        yield Finding(
            place,
            f"{every} asks for more than {budget.retrains} retrains in {format_duration(budget.per)}, the "
            f"budget (allowed: {format_duration(budget.per / budget.retrains)} or more)",
        )


# Columns


def _role(
    place: Place,
    column: str | None,
    rules: Mapping[str, ColumnRule],
    types: Collection[str] | None,
    *,
    of: str,
    nullable: bool = False,
    at_key: bool = False,
) -> Findings:
    """A column that a field names: in the contract, of one of the types, and never null unless it may be.

    rules: the columns `of` a stream, `events`, `labels` or `the reference X`.
    """
    if column is None:
        return
    if column not in rules:
        yield Finding(
            place,
            f"{column} is not a column of {of} in the contract{alternatives(column, list(rules))}",
            at_key,
        )
        return
    rule = rules[column]
    if types is not None and rule.type not in types:
        yield Finding(place, f"{column} is a {rule.type} (allowed: {', '.join(types)})", at_key)
    if rule.nullable and not nullable:
        yield Finding(place, f"{column} is nullable in the contract (allowed: nullable: false)", at_key)


def _same_type(place: Place, mine: ColumnRule, other: ColumnRule, what: str) -> Findings:
    if mine.type != other.type:
        yield Finding(place, f"is a {mine.type}, and {what} is a {other.type}: they never match")


def _repeated(place: Place, names: Sequence[str]) -> Findings:
    for name, times in Counter(names).items():
        if times > 1:
            yield Finding((*place, list(names).index(name)), f"{name} stands there {times} times")


def _taken_names(place: Place, taken: Mapping[str, str | None], rules: Mapping[str, ColumnRule]) -> Findings:
    """Columns of the contract that bear a name the lake gives to another column."""
    for name, column in taken.items():
        if name in rules and column != name:
            given = f"the column {column}" if column is not None else "what stands in for it"
            yield Finding(
                place,
                f"the contract's column {name} would be overwritten: the lake calls {given} {name}",
                at_key=True,
            )
