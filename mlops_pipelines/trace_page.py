"""A trace for people: as a tree for a terminal, and as a page that needs no network."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.tree import Tree

_SHORT = 12  # of a hash, as many digits tell it from all others of a home

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #30343b; max-width: 72rem; margin: 2rem auto }
h1 { font-size: 1.3rem }
ul { padding-left: 1.3rem; border-left: 1px solid #e3e6ea }
li { margin: .15rem 0; list-style: none; overflow-wrap: anywhere }
summary { cursor: pointer }
"""


@dataclass(frozen=True)
class Node:
    """A line of a trace: what it is of, what there is to say, what it was made of."""

    name: str
    text: str
    children: tuple[Node, ...] = ()


def nodes(trace: Mapping[str, Any]) -> Node:
    """The trace, as `trace.trace` gives it, as lines under lines."""
    one = trace["prediction"]
    return Node(
        f"prediction {one['id']}",
        f"{one['pipeline']}: {_said(one)}, {_at(one['decided_at'])}",
        (
            Node(
                "logged",
                f"{_partition('predictions', one)}{_last_by(one)}, scored {_at(one['scored_at'])}",
            ),
            _event(trace),
            _vector(trace),
            _model(trace),
            *_labels(trace),
            *_fed(trace),
        ),
    )


def _said(one: Mapping[str, Any]) -> str:
    if "decision" in one:
        decision = f"{'yes' if one['decision'] else 'no'} (from {one['threshold']:g} on)"
        return f"score {one['score']:.6f}, decided {decision}"
    if "predicted" not in one:
        return f"predicted {one['score']:.6g}"
    others = sorted(one["probabilities"].items(), key=lambda each: (-each[1], each[0]))
    chances = ", ".join(f"{name} {chance:.4f}" for name, chance in others)
    return f"predicted {one['predicted']} ({chances})"


def _event(trace: Mapping[str, Any]) -> Node:
    event, landed = trace["event"], trace["landed"]
    return Node(
        "event",
        trace["prediction"]["event_id"],
        (
            _landed(landed),
            Node("contract", f"the day was last written under its version {event['contract']}"),
            Node("partition", _partition("events", event)),
            Node("values", _values(event["values"])),
        ),
    )


def _landed(landed: Mapping[str, Any]) -> Node:
    gone = "" if landed["there"] else ", which is not there any more"
    return Node(
        "landed",
        f"row {landed['row']} of {landed['file'] or 'a file that the ledger does not know'}{gone}, "
        f"SHA-256 {_short(landed['sha256'])}, arrived {_at(landed['arrived_at'])}",
    )


def _vector(trace: Mapping[str, Any]) -> Node:
    vector = trace["vector"]
    views = trace["views"]
    of_views = {name for view in views for name in view["features"]}
    own = {name: value for name, value in vector["values"].items() if name not in of_views}
    return Node(
        "vector",
        f"{len(vector['values'])} features by set {vector['feature_set']}, "
        f"{_partition(vector['table'], vector)}{_last_by(vector)}",
        (
            Node("of its own row", _values(own)),
            *(_view(view, vector["values"]) for view in views),
        ),
    )


def _view(view: Mapping[str, Any], values: Mapping[str, Any]) -> Node:
    key = _values(view["key"])
    children = [Node("values", _values({name: values[name] for name in view["features"]}))]
    if "tiles" in view:
        newest = f", the newest of {_at(view['newest_tile'])}" if view["newest_tile"] else ""
        children.insert(
            0,
            Node(
                "tiles",
                f"{view['tiles']} hours with facts, from {_at(view['tiles_from'])} to before "
                f"{_at(view['tiles_before'])}{newest}; {view['tile_table']} version {view['tile_version']}",
            ),
        )
    source = f"{view['source']} version {view['source_version']}"
    return Node(f"view {view['view']}", f"{view['version']}, of {source}, for {key}", tuple(children))


def _model(trace: Mapping[str, Any]) -> Node:
    model, promotion = trace["model"], trace["promotion"]
    return Node(
        "model",
        f"version {model['version']}, hash {_short(model['hash'])}, of {model['rows']:,} rows decided until "
        f"{_at(model['cutoff'])}",
        (
            _training_set(trace["training_set"]),
            _code(trace["code"]),
            _retrain(trace["retrain"]),
            *(
                Node(f"gate {one['gate']}", f"{one['outcome'].replace('_', ' ')}: {one['sentence']}")
                for one in trace["verdicts"]
            ),
            Node(
                "promotion",
                f"champion number {promotion['sequence']} since {_at(promotion['at'])}, approved by "
                f"{promotion['approved_by']}",
            ),
        ),
    )


def _training_set(found: Mapping[str, Any]) -> Node:
    tables = ", ".join(f"{name} version {version}" for name, version in found["tables"].items())
    return Node(
        "training set",
        f"{found['version']}, {found['rows']:,} rows of {found['days']} days, {found['first_day']} to "
        f"{found['last_day']}, signed by {found['signed_by']}",
        (Node("made of", tables), Node("code", _commit(found))),
    )


def _code(found: Mapping[str, Any]) -> Node:
    lock = f", dependencies {_short(found['lock'])}" if found["lock"] else ""
    on = f", on {_values(found['platform'])}" if found["platform"] else ""
    return Node("code", f"{_commit(found)}{lock}{on}")


def _last_by(table: Mapping[str, Any]) -> str:
    """The code that last wrote the day of a table."""
    code = table["code"]
    return f", last written by {_commit({'commit': code['sha'], 'changed': code['dirty']})}" if code else ""


def _commit(found: Mapping[str, Any]) -> str:
    changed = " (with changes that were not committed)" if found["changed"] else ""
    return f"commit {_short(found['commit'])}{changed}"


def _retrain(found: Mapping[str, Any]) -> Node:
    return Node(
        "retrain",
        f"{found['id']}, admitted {_at(found['admitted_at'])}: {found['why']}",
        tuple(
            Node(f"trigger {one['kind']}", f"{_at(one['at'])}: {_values(one['evidence'])}")
            for one in found["triggers"]
        ),
    )


def _labels(trace: Mapping[str, Any]) -> Iterator[Node]:
    if not trace["labels"]:
        yield Node("label", "none is known yet")
    for number, one in enumerate(trace["labels"]):
        what = "label" if number == 0 else "corrected label"
        yield Node(what, f"{one['label']}, known {_at(one['known_at'])}", (_landed(one["landed"]),))


def _fed(trace: Mapping[str, Any]) -> Iterator[Node]:
    if not trace["fed"]:
        yield Node("fed", "no retrain has learned from it yet")
    for one in trace["fed"]:
        if one["freed_at"]:
            yield Node(
                "fed",
                f"perhaps retrain {one['retrain']}: its training set {one['training_set']} was freed "
                f"{_at(one['freed_at'])}",
            )
            continue
        became = f"model version {one['model_version']}" if one["model_version"] else "no model"
        yield Node(
            "fed",
            f"retrain {one['retrain']} with the label {one['label']}, in training set {one['training_set']}: "
            f"{became}, {one['outcome'] or 'in flight'}",
        )


def as_text(trace: Mapping[str, Any], width: int) -> str:
    """The trace as a tree of at most so many columns."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, highlight=False, force_terminal=False)
    console.print(_tree(nodes(trace)))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def _tree(node: Node) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text.assemble((node.name, "bold"), f"  {node.text}"))
    for child in node.children:
        tree.children.append(_tree(child))
    return tree


def as_page(trace: Mapping[str, Any]) -> str:
    """The trace as a page: HTML without scripts; whatever it shows is escaped."""
    root = nodes(trace)
    title = html.escape(root.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(root.text)}</p>{_list(root.children)}</html>\n"
    )


def _list(children: Iterable[Node]) -> str:
    items = []
    for one in children:
        line = f"<b>{html.escape(one.name)}</b> {html.escape(one.text)}"
        items.append(
            f"<li><details open><summary>{line}</summary>{_list(one.children)}</details></li>"
            if one.children
            else f"<li>{line}</li>"
        )
    return f"<ul>{''.join(items)}</ul>"


def _partition(table: str, found: Mapping[str, Any]) -> str:
    return (
        f"{table} of {found['partition']}, version {found['table_version']}, content "
        f"{_short(found['content_hash'])}"
    )


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(digits: str | None) -> str:
    return (digits or "unknown")[:_SHORT]


def _at(moment: str | None) -> str:
    """A moment in ISO 8601, to the second, in UTC."""
    return "an unknown time" if moment is None else moment.replace("T", " ")[:19] + " UTC"
