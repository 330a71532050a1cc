"""The world as its producers land it, and as the intake takes it in."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlops_pipelines.features.facts import newest_versions
from mlops_pipelines.features.point_in_time import compute_examples
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.spec_loading import LoadedSpec
from tests.ingest.files import written
from tests.loop import make_tiles

from .world import CONTRACT, VIEWS, World, by_id, make_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

# A landed file: its stream and its rows.
Landed = tuple[str, list[dict[str, Any]]]


def pipeline(views: Sequence[Mapping[str, Any]] = VIEWS) -> LoadedSpec:
    """The pipeline of the orders, of which every row says when it arrived."""
    spec = make_spec(views, partitions={"start": "2012-01-01"})
    arrived = {"arrived": "arrived_at"}
    weather = spec.references["weather"].model_copy(update=arrived)
    changes = {
        "events": spec.events.model_copy(update=arrived),
        "labels": spec.labels.model_copy(update=arrived),
        "references": {**spec.references, "weather": weather},
    }
    contract = CONTRACT.model_dump()
    for rules in (contract["events"], contract["labels"], contract["references"]["weather"]):
        rules["columns"]["arrived_at"] = {"type": "timestamp"}
    return LoadedSpec(spec.model_copy(update=changes), Contract.model_validate(contract), None)  # type: ignore[arg-type]


def rows_of(world: World) -> dict[str, list[dict[str, Any]]]:
    """What each stream has to say of the world."""
    return {
        "events": [
            {"order_no": o.id, "placed_at": o.time, "decided_at": o.decided, "shop": o.shop, "lane": o.lane,
             "kind": o.kind, "weight": o.weight, "express": o.express, "arrived_at": o.known}
            for o in world.orders
        ],
        "labels": [
            {"order_no": x.id, "late": bool(x.late), "delivered_at": x.time, "delay": x.delay,
             "arrived_at": x.known}
            for x in world.outcomes
        ],
        "weather": [
            {"station": w.station, "observed_at": w.time, "wind": w.wind, "sky": w.sky, "arrived_at": w.known}
            for w in world.weather
        ],
        "shops": [{"shop": s.shop, "size": s.size, "town": s.town} for s in world.shops],
    }  # fmt: skip


def said_once(world: World) -> World:
    """The world without what says again, later, what was said: the intake keeps the first."""

    def first(facts: list[Any]) -> list[Any]:
        kept: dict[Any, Any] = {}
        for fact in sorted(facts, key=lambda fact: fact.known):
            kept.setdefault(replace(fact, known=None), fact)
        return list(kept.values())

    return replace(world, outcomes=first(world.outcomes), weather=first(world.weather))


class Orders:
    """A copy of an empty home for the orders' pipeline, and what lands in it."""

    def __init__(self, empty: Path, home: Path, loaded: LoadedSpec) -> None:
        shutil.copytree(empty, home)
        self.place: PipelineHome = Home.open(home).pipeline(loaded)
        self.place.prepare()
        self._files: Counter[str] = Counter()

    def take_in(
        self,
        files: Sequence[Landed],
        ending: str = "jsonl",
        said: Callable[[Any], Any] = lambda value: value,
        types: Mapping[str, pa.DataType] | None = None,
    ) -> None:
        """Land the files together, take them in, and make the tiles of what that reopened.

        said: a value as its producer says it. types: of columns in Parquet.
        """
        for stream, rows in files:
            folder = self.place.landing(stream) / "2024-03-04"
            folder.mkdir(parents=True, exist_ok=True)
            self._files[stream] += 1
            words = [{name: said(value) for name, value in row.items()} for row in rows]
            name = f"{self._files[stream]}.{ending}"
            (folder / name).write_bytes(written(name, words, types))
        taking.register_landed(self.place)
        taken = [taking.take_events(self.place, [])]
        taken += [taking.take_reference(self.place, name, []) for name in self.place.spec.references]
        taken += [taking.take_labels(self.place, [])]
        assert not any(one.refused or one.quarantined for one in taken), taken
        make_tiles(self.place)

    def vectors(self) -> dict[str, dict[str, Any]]:
        """The examples of all orders that are there, by id."""
        place = self.place
        versions = newest_versions(place.lake, place.features.views)
        events = place.lake.read("events")
        return by_id(compute_examples(place.features, place.lake, events, versions))
