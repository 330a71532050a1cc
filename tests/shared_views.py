"""Two pipelines in one folder: flights, and bookings that look up a view of the flights by carrier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from mlops_pipelines.home import Home
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import PIPELINES, load_spec
from tests.loop import FIRST, advance, land, move, serve

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome

VIEW = "carrier_lateness"
SHARED = """\
pipeline: ../flights
views:
  - name: carrier_lateness
    key: carrier
    of: labels
    aggregate: {late: [mean, count], arr_delay: [last]}
    windows: [6h, 2d]
"""
BOOKINGS = """\
type: mlops_pipelines.LearningLoop
attributes:
  name: bookings
  partitions: {start: "2013-01-01"}
  events: {landing: landing/events, id: booking, time: booked_at, arrived: taken_in_at}
  labels: {landing: landing/labels, value: cancelled, time: told_at, arrived: taken_in_at, matures_after: 2d}
  features:
    from_event: {price: price}
    views:
      - {name: customer, key: customer, of: events, aggregate: {price: [count]}, windows: [1d]}
    shared:
      - file: ../shared/carriers.yaml
        views: [carrier_lateness]
"""
CONTRACT = """\
events:
  columns:
    booking: {type: string}
    booked_at: {type: timestamp}
    taken_in_at: {type: timestamp}
    carrier: {type: string, nullable: true}
    customer: {type: string}
    price: {type: float}
labels:
  columns:
    booking: {type: string}
    told_at: {type: timestamp}
    taken_in_at: {type: timestamp}
    cancelled: {type: bool}
"""


def write(root: Path, *, uses_itself: bool = True) -> Path:
    """The folders of both pipelines and of the shared file below `root`.

    uses_itself: whether the flights use the file too.
    """
    defs: dict[str, Any] = yaml.safe_load((PIPELINES / "flight_delays" / "defs.yaml").read_text())
    features = {"from_event": {"distance": "distance"}}
    used = {"shared": [{"file": "../shared/carriers.yaml"}]} if uses_itself else {}
    defs["attributes"] |= {"name": "flights", "features": {**features, **used}}
    contract = (PIPELINES / "flight_delays" / "contract.yaml").read_text()
    for name, text in {
        "flights/defs.yaml": yaml.safe_dump(defs),
        "flights/contract.yaml": contract,
        "bookings/defs.yaml": BOOKINGS,
        "bookings/contract.yaml": CONTRACT,
        "shared/carriers.yaml": SHARED,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def places(home: Home, root: Path) -> tuple[PipelineHome, PipelineHome]:
    """The places of the flights and of the bookings, as their files say now."""
    flights, bookings = (
        home.pipeline(load_spec(root / name / "defs.yaml")) for name in ("flights", "bookings")
    )
    return flights, bookings


def new_home(path: Path, root: Path) -> tuple[PipelineHome, PipelineHome]:
    """Both places in a new home whose clock stands at the first moment of the data."""
    found = places(Home.create(path), root)
    for place in found:
        place.prepare()
    move(found[0], FIRST)
    return found


def fly(flights: PipelineHome, bookings: PipelineHome, until: datetime) -> None:
    """Flights land, are taken in and scored; a booking of each one lands."""
    since = flights.clock.now()
    advance(flights, until)
    land(bookings, "events", f"{since:%d%H}-{until:%d%H}", booked(since, until))


def live(flights: PipelineHome, bookings: PipelineHome, until: datetime) -> None:
    """As `fly`, and the bookings are taken in and scored."""
    fly(flights, bookings, until)
    serve(bookings)


def booked(since: datetime, until: datetime) -> pa.Table:
    """A booking of each flight that is announced in this time, decided when the flight is."""
    import pyarrow as pa

    rows = Flights().rows("events", since, until)
    return pa.table(
        {
            "booking": rows["event_id"],
            "booked_at": rows["scheduled_departure"],
            "taken_in_at": rows["arrived_at"],
            "carrier": rows["carrier"],
            "customer": rows["dest"],
            "price": rows["distance"].cast(pa.float64()),
        }
    )
