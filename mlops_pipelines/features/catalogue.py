"""What features there are, what each is made of, and what has been made of them: for people and machines."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TransientError, UserError
from mlops_pipelines.features.facts import newest_versions
from mlops_pipelines.features.in_use import recorded_sets, set_of, users_of, without_tiles
from mlops_pipelines.features.point_in_time import has_facts
from mlops_pipelines.features.sets import features_of
from mlops_pipelines.features.views import table_name, tile_table
from mlops_pipelines.lineage import column_sources, landed_column
from mlops_pipelines.monitoring.columns import DESCRIPTIONS
from mlops_pipelines.scoring import feature_sources
from mlops_pipelines.spec import format_duration
from mlops_pipelines.spec_wording import alternatives

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.spec_loading import LoadedSpec


def listed(place: PipelineHome) -> list[dict[str, Any]]:
    """One entry a view in use, and one for the expressions and the functions of the event's own row.

    Each with version (8 hex digits), key, of, windows, within and features (their number), and, of views
    with windows, tiles (rows) and newest_tile (the day of knowledge time, UTC; None without any). feeds: who
    is fed by it, of `yaml` (the next model), `retrain` (the one in flight), `champion`, `previous` and `late`
    (a former champion, whose events may still arrive); nothing of this pipeline where only others use it.
    pipeline: the one whose tables it is of and that makes its tiles. used_by: the pipelines of the home
    whose sets in use have it.
    """
    fed, use = _fed(place), recorded_sets(place)
    users = users_of(place.ledger)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for features in use.sets:
        for one in _listed_of(place, features, users):
            known = found.setdefault((one["name"], one["version"]), {**one, "feeds": []})
            known["feeds"] += [
                who for who in fed.get(features.version, ["late"]) if who not in known["feeds"]
            ]
    for view in use.lent:
        found.setdefault((view.name, view.version), {**_view(place, view, users), "feeds": []})
    return list(found.values())


def _fed(place: PipelineHome) -> dict[str, list[str]]:
    """By version of a feature set, who is fed by it."""
    fed: dict[str, list[str]] = {place.features.version: ["yaml"]}
    retrain = place.ledger.in_flight(place.name)
    if retrain and retrain.feature_set:
        fed.setdefault(retrain.feature_set, []).append("retrain")
    for who, promotion in zip(
        ("champion", "previous"), place.ledger.promotions(place.name)[::-1], strict=False
    ):
        fed.setdefault(set_of(place, promotion).version, []).append(who)
    return fed


def _listed_of(
    place: PipelineHome, features: FeatureSet, users: Mapping[tuple[str, str], Sequence[str]]
) -> list[dict[str, Any]]:
    own = {"from_event": features.from_event, "from_python": features.from_python}
    return [
        *(
            {"name": name, "version": features.view_versions[name], "key": ["event_id"], "of": "events",
             "windows": [], "within": None, "features": len(names), "tiles": None, "newest_tile": None,
             "pipeline": place.name, "used_by": [place.name]}
            for name, names in own.items()
            if names
        ),
        *(_view(place, view, users) for view in features.views),
    ]  # fmt: skip


def _view(
    place: PipelineHome, view: CompiledView, users: Mapping[tuple[str, str], Sequence[str]]
) -> dict[str, Any]:
    windows = sorted({feature.window for feature in view.windowed})
    tiles = place.lake.of(view.pipeline).row_counts(tile_table(view)) if view.windowed else {}
    owner = view.owner(place.name)
    return {
        "name": view.name,
        "version": view.version,
        "key": list(view.keys),
        "of": view.source,
        "windows": [format_duration(window) for window in windows],
        "within": format_duration(view.within) if view.last and view.within else None,
        "features": len(view.columns),
        "tiles": sum(tiles.values()) if view.windowed else None,
        "newest_tile": max((day for day, rows in tiles.items() if rows), default=None),
        "pipeline": owner,
        "used_by": list(users.get((owner, view.at_owner.id), ())),
    }


def shown(loaded: LoadedSpec, name: str) -> list[dict[str, Any]]:
    """The features of a view, of `from_event`, of `from_python`, or the one of this name.

    Each with its kind (number or category) and how it is made, of columns as they land. Raises UserError
    if there is none.
    """
    kinds = {column.name: column.kind for column in features_of(loaded).columns}
    made = _made(loaded)
    found = made.get(name) or {
        feature: how for names in made.values() for feature, how in names.items() if feature == name
    }
    if not found:
        known = [*(place for place, names in made.items() if names), *kinds]
        raise UserError(
            f"There is no view or feature {name!r}{alternatives(name, known)}.",
            remedy=f"mlops features lineage {loaded.spec.name}",
        )
    return [{"feature": feature, "kind": kinds[feature], "made": how} for feature, how in found.items()]


def _made(loaded: LoadedSpec) -> dict[str, dict[str, str]]:
    """By view, `from_event` and `from_python`: how each of its features is made, of columns as they land."""
    features = features_of(loaded)
    made: dict[str, dict[str, str]] = {
        "from_event": {name: one.sql for name, one in features.from_event.items()},
        "from_python": {
            name: f"{one.function} of {', '.join(one.columns)}" for name, one in features.from_python.items()
        },
    }
    for view in features.views:
        key = ", ".join(view.keys)
        source = table_name(view.pipeline, view.source)
        made[view.name] = {
            **{
                one.name: f"{one.aggregate} of {source}.{landed_column(loaded, source, one.column)} "
                f"over {format_duration(one.window)} by {key}"
                for one in view.windowed
            },
            **{
                one.name: f"last known {source}.{landed_column(loaded, source, one.column)} by {key}"
                + (f", at most {format_duration(view.within)} old" if view.within else "")
                for one in view.last
            },
        }
    return made


def described(loaded: LoadedSpec, asset: str) -> dict[str, str]:
    """By column of an asset's table how it is made, and of which columns that land, in words for the UI."""
    if asset in ("events", "labels", *loaded.spec.references):
        return {
            column: f"← {', '.join(f'{of}.{name}' for of, name in sources)}"
            for column, sources in column_sources(loaded, asset).items()
        }
    if asset not in ("examples", "training_set", "model"):
        return {**DESCRIPTIONS.get(asset, {})}
    how = {feature: text for made in _made(loaded).values() for feature, text in made.items()}
    return {
        feature: f"{how[feature]} ← landed {', '.join(one['landed'] for one in sources)}"
        for feature, sources in lineage(loaded).items()
    }


def current(place: PipelineHome, name: str, key: Sequence[str], *, fallback: bool) -> dict[str, Any]:
    """A view's values of one key in the online store: `values` by feature, `as_of` (UTC) and `source`.

    And `key` by column, and whether it is `known`: whether the view has anything of it, as the share of
    known keys in the feature report counts. key: a text for each key column. fallback: as `read_features`
    takes it, as of the moment of the home's clock, if all tiles of the view are there. Raises UserError for
    a view that is not there and a key that is none of it, and else as `read_features` does.
    """
    import pyarrow as pa

    from mlops_pipelines.features.online import Tiles, read_features

    views = {view.name: view for view in place.features.views}
    if name not in views:
        raise UserError(
            f"{_not_a_view(place.loaded, name, [*views])}.", remedy=f"mlops features list {place.name}"
        )
    view = views[name]
    types = {"int": pa.int64(), "string": pa.string()}
    wanted = ", ".join(f"{column} ({kind})" for column, kind in zip(view.keys, view.key_types, strict=True))
    command = f"mlops features read {place.name} {name} {' '.join(view.keys).upper()}"
    if len(key) != len(view.keys):
        raise UserError(
            f"{len(key)} {'value is' if len(key) == 1 else 'values are'} no key of {name}: {', '.join(key)}.",
            expected=f"a value for each of {wanted}",
            remedy=command,
        )
    try:
        keys = pa.table(
            {
                column: pa.array([value]).cast(types[kind])
                for column, kind, value in zip(view.keys, view.key_types, key, strict=True)
            }
        )
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:  # the latter: bytes that are no UTF-8
        told = ", ".join(key).encode(errors="backslashreplace").decode()
        raise UserError(
            f"{told} is no key of {name}.",
            expected=f"{wanted}, in this order",
            remedy=command,
        ) from error
    otherwise = None
    if fallback and not without_tiles(place, [view]):
        otherwise = Tiles(place.lake, newest_versions(place.lake, [view]), place.clock.now())
    try:
        found = read_features(view, keys, place.store, otherwise)
    except TransientError as error:
        if fallback:  # and there are no tiles
            raise
        command = shlex.join(["mlops", "features", "read", place.name, name, *key, "--fallback"])
        raise TransientError(error.message, expected=error.expected, remedy=command) from error
    values = found.values.select([column.name for column in view.columns]).to_pylist()[0]
    return {
        "key": keys.to_pylist()[0],
        "known": bool(has_facts(view, found.values)[0]),
        "values": values,
        "as_of": found.as_of.isoformat(),
        "source": found.source,
    }


def _not_a_view(loaded: LoadedSpec, name: str, views: Sequence[str]) -> str:
    """Why there are no values under this name."""
    for of, features in _made(loaded).items():
        if name == of or name in features:
            if of in views:
                return f"{name} is a feature of {of}, not a view"
            return f"{name} is computed from the event's own row, nothing of it is stored"
    return f"There is no view {name!r}{alternatives(name, views)}"


def lineage(loaded: LoadedSpec, name: str | None = None) -> dict[str, list[dict[str, str]]]:
    """By feature, by default of all: each column it is made of, as it lands and in the table it is read from.

    name: of a feature, or of what `shown` takes. Tables of another pipeline are named `OWNER:TABLE`.
    Raises UserError if there is no such feature.
    """
    sources: Mapping[str, Sequence[tuple[str, str]]] = feature_sources(features_of(loaded))
    wanted = sources if name is None else [one["feature"] for one in shown(loaded, name)]
    return {
        feature: [
            {"landed": f"{table}.{landed_column(loaded, table, column)}", "table": table, "column": column}
            for table, column in columns
        ]
        for feature, columns in sources.items()
        if feature in wanted
    }
