"""A tiny pipeline whose label is of any kind: parcels, with how long they took or where they ended up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import yaml

from mlops_pipelines.home import Home
from mlops_pipelines.spec_loading import load_spec
from tests.loop import land, move, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROWS_A_DAY = 60
VALUES = {"binary": "late", "number": "minutes", "category": "left_at"}
PLACES = ("door", "neighbour", "shop")
GATES: Mapping[str, Mapping[str, Any]] = {
    "binary": {
        "skill": {"at_least": -1.0},
        "champion": {"not_worse_by": 1.0, "min_days": 1},
    },
    "number": {
        "data": {},
        "skill": {"metric": "r2", "at_least": 0.1},
        "champion": {"metric": "mae", "not_worse_by": 50.0, "min_days": 1},
        "slices": {"by": ["carrier"], "metric": "r2", "min_rows": 20, "at_least": -1.0},
        "leak": {"at_most": 1.0},
        "robustness": {"drop": 0.5},
        "agreement": {"at_least": 0.5},
        "latency": {"p99_ms": 1000},
        "size": {},
    },
    "category": {
        "data": {},
        "skill": {"at_least": 0.05},
        "champion": {"not_worse_by": 1.0, "min_days": 1},
        "calibration": {"at_most": 0.5},
        "slices": {"by": ["carrier"], "metric": "accuracy", "min_rows": 20, "at_least": 0.2},
        "leak": {"at_most": 1.0},
        "robustness": {"drop": 0.5},
        "agreement": {"at_least": 0.5},
        "latency": {"p99_ms": 1000},
        "size": {},
    },
}
WATCHED = {"binary": "log_loss", "number": "mse", "category": "log_loss"}
SKILL = {"binary": "log_loss_skill", "number": "r2", "category": "log_loss_skill"}


def attributes(kind: str) -> dict[str, Any]:
    """Of the pipeline's `defs.yaml`."""
    return {
        "name": "parcels",
        "partitions": {"start": "2024-01-01"},
        "events": {"landing": "landing/events", "id": "parcel", "time": "sent_at", "arrived": "taken_in_at"},
        "labels": {
            "landing": "landing/labels",
            "value": VALUES[kind],
            "kind": kind,
            "time": "delivered_at",
            "arrived": "taken_in_at",
            "matures_after": "1d",
        },
        "features": {
            "from_event": {"weight": "weight", "carrier": "carrier"},
            "views": [
                {
                    "name": "of_carrier",
                    "key": "carrier",
                    "of": "labels",
                    "aggregate": {VALUES[kind]: ["count", "last"]},
                    "windows": ["2d"],
                }
            ],
        },
        "training": {
            "holdout": "3d",
            "min_rows": 200,
            "threads": 1,
            "params": {"n_estimators": 12, "num_leaves": 5, "min_data_in_leaf": 10, "learning_rate": 0.3},
        },
        "gates": dict(GATES[kind]),
        "policy": {"cooldown": "0s"},
        "triggers": {"drift": {}, "performance": {"metric": SKILL[kind], "drop": 0.2, "over": "4d"}},
        "promotion": {"watch": {"over": "10d", "metric": WATCHED[kind], "min_days": 2, "confidence": 0.9}},
    }


def contract() -> dict[str, Any]:
    moment = {"type": "timestamp"}
    return {
        "events": {
            "columns": {
                "parcel": {"type": "string"},
                "sent_at": moment,
                "taken_in_at": moment,
                "carrier": {"type": "string"},
                "weight": {"type": "float"},
            }
        },
        "labels": {
            "columns": {
                "parcel": {"type": "string"},
                "delivered_at": moment,
                "taken_in_at": moment,
                "late": {"type": "bool"},
                "minutes": {"type": "float"},
                "left_at": {"type": "string"},
            }
        },
    }


def written(root: Path, kind: str, **changes: Any) -> Path:
    """The folder of the pipeline; `changes` replace attributes."""
    folder = root / "parcels"
    folder.mkdir(parents=True, exist_ok=True)
    made = {"type": "mlops_pipelines.LearningLoop", "attributes": {**attributes(kind), **changes}}
    (folder / "defs.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract(), sort_keys=False))
    return folder


def new_place(path: Path, kind: str, **changes: Any) -> PipelineHome:
    """The pipeline's place in a new home whose clock stands at the first moment of the data."""
    loaded = load_spec(written(path / "pipelines-of-tests", kind, **changes) / "defs.yaml")
    place = Home.create(path / "home").pipeline(loaded)
    place.prepare()
    move(place, START)
    return place


def parcels(day: int, *, upside_down: bool = False) -> tuple[pa.Table, pa.Table]:
    """Events and labels of a day, counted from 0. upside_down: as if weight had the opposite effect."""
    rng = np.random.default_rng(day)
    sent = [START + day * DAY + timedelta(minutes=20 * n) for n in range(ROWS_A_DAY)]
    weight = rng.normal(size=ROWS_A_DAY)
    carrier = rng.choice(["AA", "BB"], ROWS_A_DAY)
    pull = (-weight if upside_down else weight) + (carrier == "BB") * 0.5
    noisy = pull + rng.normal(0, 0.3, ROWS_A_DAY)
    ids = [f"p{day:02d}-{n:03d}" for n in range(ROWS_A_DAY)]
    moments = pa.timestamp("us", tz="UTC")
    events = pa.table(
        {
            "parcel": ids,
            "sent_at": pa.array(sent, moments),
            "taken_in_at": pa.array(sent, moments),
            "carrier": carrier.tolist(),
            "weight": weight,
        }
    )
    delivered = [moment + timedelta(hours=6) for moment in sent]
    labels = pa.table(
        {
            "parcel": ids,
            "delivered_at": pa.array(delivered, moments),
            "taken_in_at": pa.array(delivered, moments),
            "late": noisy > 0.3,
            "minutes": 100 + 30 * noisy,
            "left_at": [PLACES[int(np.digitize(one, [-0.4, 0.7]))] for one in noisy],
        }
    )
    return events, labels


def advance(
    place: PipelineHome,
    until: int,
    *,
    upside_down: bool = False,
    changed: Callable[[pa.Table], pa.Table] = lambda events: events,
) -> None:
    """Live through the days before `until`: what was sent and delivered by then is taken in and scored.

    changed: what lands of the events.
    """
    import pyarrow.compute as pc

    now = place.clock.now()
    then = START + until * DAY
    for stream, which in (("events", 0), ("labels", 1)):
        tables = [parcels(day, upside_down=upside_down)[which] for day in range(until + 1)]
        rows = pa.concat_tables(tables)
        arrived = rows["taken_in_at"]
        rows = rows.filter(pc.and_(pc.greater_equal(arrived, now), pc.less(arrived, then)))
        land(place, stream, f"{now:%d%H}-{until:02d}", changed(rows) if stream == "events" else rows)
    move(place, then)
    serve(place)
