"""Which feature sets vectors are made by: that of the YAML, and those of the models that still count on them.

A changed definition is another set, beside the old one. The champion is fed by the set it was trained on,
and so is the one before it, which may have to come back. A pipeline also makes what others use of its views.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.sets import FeatureSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import KnownSet, Ledger, Promotion, Reign


@dataclass(frozen=True)
class InUse:
    """sets: those in use, that of the YAML first. lent: this pipeline's views that others use, as its own."""

    sets: tuple[FeatureSet, ...]
    lent: tuple[CompiledView, ...]

    @property
    def views(self) -> tuple[CompiledView, ...]:
        """All views of the sets, each once, in their order."""
        return tuple({view.id: view for one in self.sets for view in one.views}.values())

    @property
    def made(self) -> tuple[CompiledView, ...]:
        """The views of this pipeline that are in use, its own and lent ones: it makes their values."""
        own = [view for view in self.views if view.pipeline is None]
        return tuple({view.id: view for view in (*own, *self.lent)}.values())


def wanted_sets(
    current: str, reigns: Sequence[Reign], in_flight: Iterable[str], since: datetime
) -> frozenset[str]:
    """Versions of the sets that vectors have to be made by. Pure.

    current: that of the YAML. reigns: of the champions, in order. in_flight: of retrains that have not
    ended. since: an event decided before (UTC) does not arrive any more. The champion and the one before it
    are fed, and whoever was champion at a decision that may still arrive.
    """
    ends = [reign.since for reign in reigns[1:]]
    late = [reign.feature_set for reign, end in zip(reigns, ends, strict=False) if end >= since]
    return frozenset({current, *in_flight, *late, *(reign.feature_set for reign in reigns[-2:])})


def sets_in_use(place: PipelineHome) -> InUse:
    """The sets in use now; where that is not what the ledger has, it is recorded.

    A set that begins to be used reopens the days of all events, so that each gets its vector by it too.
    Raises TerminalError where one, or a view that is lent, reads columns that are not taken in any more.
    """
    ledger, now, current = place.ledger, place.clock.now(), place.features
    retrain = ledger.in_flight(place.name)
    in_flight = [retrain.feature_set] if retrain and retrain.feature_set else []
    since = now - place.spec.lateness
    wanted = wanted_sets(current.version, ledger.reigns(place.name), in_flight, since)
    if wanted != {one.version for one in ledger.feature_sets(place.name) if one.state != "retired"}:
        definitions = {current.version: current.to_json()}
        ledger.use_feature_sets(place.name, wanted, definitions, place.lake.days("events"), now)
    use = recorded_sets(place)
    for one in use.sets[1:]:
        what = f"A model in use was trained on the features {one.version} of {place.name}, which read"
        _check_taken_in(place, one.read_columns(), what)
    for view, users in lent_views(place).items():
        what = f"The view {view.id} of {place.name}, which is in use by {' and '.join(users)}, reads"
        _check_taken_in(place, FeatureSet({}, {}, (view,)).read_columns(), what)
    return use


def recorded_sets(place: PipelineHome) -> InUse:
    """The sets in use as the ledger has them, and that of the YAML; nothing is recorded."""
    known = [one for one in place.ledger.feature_sets(place.name) if one.state != "retired"]
    others = [_set_of(one.definition) for one in known if one.version != place.features.version]
    return InUse((place.features, *others), tuple(lent_views(place)))


def without_tiles(place: PipelineHome, views: Iterable[CompiledView]) -> dict[str, list[str]]:
    """Of views that a pipeline uses or lends those whose tiles are not all there: ids by their pipeline."""
    wanted: dict[str, set[str]] = {}
    for view in views:
        if view.windowed:
            wanted.setdefault(view.owner(place.name), set()).add(view.at_owner.id)
    lacking = {owner: sorted(ids - place.ledger.kept_tiles(owner)) for owner, ids in wanted.items()}
    return {owner: ids for owner, ids in lacking.items() if ids}


def users_of(ledger: Ledger) -> dict[tuple[str, str], list[str]]:
    """Who uses a view, by the pipeline it is of and its id there: the pipelines whose sets in use have it."""
    found: dict[tuple[str, str], set[str]] = {}
    for known, features in _all_in_use(ledger):
        for view in features.views:
            found.setdefault((view.owner(known.pipeline), view.at_owner.id), set()).add(known.pipeline)
    return {view: sorted(users) for view, users in found.items()}


def lent_views(place: PipelineHome) -> dict[CompiledView, list[str]]:
    """The views that sets in use of other pipelines have of this one, as its own, with these pipelines."""
    lent: dict[CompiledView, set[str]] = {}
    for known, features in _all_in_use(place.ledger):
        for view in features.views:
            if view.pipeline == place.name:
                lent.setdefault(view.at_owner, set()).add(known.pipeline)
    return {view: sorted(users) for view, users in lent.items()}


def _all_in_use(ledger: Ledger) -> Iterator[tuple[KnownSet, FeatureSet]]:
    for one in ledger.feature_sets():
        if one.state != "retired":
            yield one, _set_of(one.definition)


def known_set(place: PipelineHome, version: str) -> FeatureSet:
    """A set that vectors were ever made by. Raises TerminalError if the ledger has none of this version."""
    if version == place.features.version:
        return place.features
    known = {one.version: one.definition for one in place.ledger.feature_sets(place.name)}
    if version not in known:
        raise TerminalError(f"{place.name} has no feature set {version}.")
    return _set_of(known[version])


def known_sets(place: PipelineHome) -> list[FeatureSet]:
    """All sets that vectors were ever made by, and that of the YAML."""
    known = {one.version: _set_of(one.definition) for one in place.ledger.feature_sets(place.name)}
    return list({**known, place.features.version: place.features}.values())


def set_of(place: PipelineHome, promotion: Promotion) -> FeatureSet:
    """The set that a champion was trained on, and is fed by."""
    version = place.ledger.retrain(promotion.retrain_id).feature_set
    if version is None:
        raise TerminalError(f"Nothing says which features retrain {promotion.retrain_id} learned from.")
    return known_set(place, version)


def vectors(
    place: PipelineHome, features: FeatureSet, events: pa.Table, versions: Mapping[str, int | None]
) -> pa.Table:
    """As `compute_examples`, on a pipeline's lake; what the contract calls sensitive is in no error."""
    from mlops_pipelines.features.point_in_time import compute_examples

    sensitive = bool(place.contract.sensitive_columns("events"))
    return compute_examples(features, place.lake, events, versions, sensitive=sensitive)


def _check_taken_in(place: PipelineHome, read: Mapping[str, set[str]], what: str) -> None:
    """Whether the columns of these tables are still taken in. what: the error's sentence up to them."""
    from mlops_pipelines.ingest import taking

    taken = {
        "events": taking.event_columns(place.loaded),
        "labels": taking.label_columns(place.loaded),
        **{name: taking.reference_columns(place.loaded, name) for name in place.spec.references},
    }
    for table, columns in read.items():
        lacking = sorted(columns - set(taken.get(table, ())))
        if lacking:
            raise TerminalError(
                f"{what} {', '.join(f'{table}.{column}' for column in lacking)}; "
                "that is not taken in any more.",
                expected="what a model in use reads stays in the contract and in the YAML until it has been "
                "replaced, and so has the one before it",
                remedy="put it back; add and retrain first, remove afterwards",
            )


@lru_cache(maxsize=32)
def _set_of(definition: str) -> FeatureSet:
    return FeatureSet.from_json(definition)
