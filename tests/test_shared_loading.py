"""Loading views of a shared file: every refusal names file and place, what is wrong and what is needed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.errors import UserError
from mlops_pipelines.spec_loading import PIPELINES, load_spec
from tests.shared_views import BOOKINGS, SHARED, VIEW, write
from tests.shared_views import CONTRACT as COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

DEFS, FILE, CONTRACT = "bookings/defs.yaml", "shared/carriers.yaml", "bookings/contract.yaml"
NEVER = f"{VIEW} of flights is looked up by carrier; carrier"

# Each row: in which file what is replaced by what, and lines of the refusal, each by its end.
REFUSALS: dict[str, tuple[str, str, str, list[str]]] = {
    "no such file": (
        DEFS, "carriers.yaml", "careers.yaml",
        ["defs.yaml:12:15 attributes.features.shared.0.file: ../shared/careers.yaml cannot be used",
         "There is no file {root}/shared/careers.yaml"],
    ),
    "absolute path": (
        DEFS, "../shared/carriers.yaml", "/shared/carriers.yaml",
        ["defs.yaml:12:15 attributes.features.shared.0.file: '/shared/carriers.yaml' is not a file relative "
         "to this file's folder, such as ../shared/carriers.yaml"],
    ),
    "steps upwards on the way": (
        DEFS, "../shared/carriers.yaml", "a/../../shared/carriers.yaml",
        ["'a/../../shared/carriers.yaml' is not a file relative to this file's folder, such as "
         "../shared/carriers.yaml"],
    ),
    "not YAML": (
        FILE, "views:\n", "views: [\n",
        ["../shared/carriers.yaml cannot be used",
         "{root}/shared/carriers.yaml:3:3 not YAML: did not find expected node content"],
    ),
    "no mapping": (
        FILE, SHARED, "- a\n",
        ["carriers.yaml:1:1 a mapping with pipeline and views is needed, not ['a']"],
    ),
    "no pipeline": (
        FILE, "pipeline: ../flights\n", "",
        ["../shared/carriers.yaml cannot be used", "{root}/shared/carriers.yaml has 1 problem:",
         "carriers.yaml:1:1 pipeline: is missing, and has no default"],
    ),
    "no views": (FILE, SHARED[SHARED.index("views:") :], "views: []\n",
                 ["carriers.yaml:2:8 views: is empty; at least one is needed"]),
    "unknown key": (
        FILE, "pipeline:", "pipelines: x\npipeline:",
        ["carriers.yaml:1:1 pipelines: pipelines is not a key of this part; did you mean pipeline? "
         "(allowed: pipeline, views)"],
    ),
    "a key twice": (FILE, "pipeline: ../flights\n", "pipeline: ../flights\npipeline: ../flights\n",
                    ["carriers.yaml:2:1 pipeline: the key stands twice; first in line 1"]),
    "no pipeline there": (
        FILE, "../flights", "../trains",
        ["carriers.yaml:1:11 pipeline: ../trains is no pipeline that can be loaded",
         "There is no file {root}/trains/defs.yaml"],
    ),
    "itself for a pipeline": (
        FILE, "../flights", "carriers.yaml",
        ["carriers.yaml:1:11 pipeline: carriers.yaml is no pipeline that can be loaded",
         "There is no file {root}/shared/carriers.yaml/defs.yaml"],
    ),
    "pipeline as an absolute path": (
        FILE, "../flights", "/flights",
        ["carriers.yaml:1:11 pipeline: '/flights' is not a folder relative to this file's folder, such as "
         "../flight_delays"],
    ),
    "pipeline that cannot be loaded": (
        "flights/defs.yaml", "matures_after: 36h", "matures_after: 36",
        ["carriers.yaml:1:11 pipeline: ../flights is no pipeline that can be loaded",
         "{root}/flights/defs.yaml has 1 problem:",
         "attributes.labels.matures_after: 36 is not a duration; write a whole number and one of s, m, h, d, "
         "w, such as 36h"],
    ),
    "pipeline of the same name": (
        "flights/defs.yaml", "name: flights", "name: bookings",
        ["Two pipelines are called bookings: {root}/flights/defs.yaml and {root}/bookings/defs.yaml"],
    ),
    "view that the file has not": (
        DEFS, "[carrier_lateness]", "[carrier_latenes]",
        ["defs.yaml:13:17 attributes.features.shared.0.views.0: carrier_latenes is not a view of "
         "../shared/carriers.yaml; did you mean carrier_lateness? (allowed: carrier_lateness)"],
    ),
    "no view of the file": (
        DEFS, "[carrier_lateness]", "[]",
        ["defs.yaml:13:16 attributes.features.shared.0.views: is empty; at least one is needed"],
    ),
    "view that does not fit its pipeline": (
        FILE, "arr_delay: [last]", "arr_delays: [last]",
        ["carriers.yaml:6:38 views.0.aggregate.arr_delays: arr_delays is not a column of labels in the "
         "contract; did you mean arr_delay? (allowed: event_id, landed_at, late, arr_delay, arrived_at)"],
    ),
    "key that the events have not": (
        CONTRACT, "    carrier:", "    airline:",
        [f"defs.yaml:13:17 attributes.features.shared.0.views.0: {NEVER} is not a column of the events here "
         "(allowed: booking, booked_at, taken_in_at, airline, customer, price)"],
    ),
    "key of another type": (
        CONTRACT, "carrier: {type: string", "carrier: {type: int",
        [f"defs.yaml:13:17 attributes.features.shared.0.views.0: {NEVER} is a int here and a string there: "
         "they never match"],
    ),
    "view named twice": (
        DEFS, "[carrier_lateness]", "[carrier_lateness, carrier_lateness]",
        ["views.1: carrier_lateness stands twice; first in line 13"],
    ),
    "name of a view of its own": (
        DEFS, "{name: customer,", "{name: carrier_lateness,",
        ["views.0: carrier_lateness stands twice; first in line 10"],
    ),
    "name of a feature of its own": (
        DEFS, "{price: price}", "{carrier_lateness_late_mean_6h: price}",
        ["views.0: carrier_lateness_late_mean_6h is also the name of a feature of "
         "features.from_event.carrier_lateness_late_mean_6h"],
    ),
}  # fmt: skip


def refusal(root: Path) -> list[str]:
    with pytest.raises(UserError) as refused:
        load_spec(root / DEFS)
    assert refused.value.remedy is not None
    assert "docs/pipeline.md" in refused.value.remedy
    return refused.value.message.splitlines()


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, row: tuple[str, str, str, list[str]]) -> None:
    name, old, new, expected = row
    path = write(tmp_path) / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    lines = refusal(tmp_path)
    for line in expected:
        wanted = line.format(root=tmp_path)
        assert any(found.endswith(wanted) for found in lines), "\n".join([wanted, *lines])


def test_a_key_that_names_a_single_event_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / DEFS).write_text(BOOKINGS.replace("id: booking", "id: carrier"))
    columns = COLUMNS.replace("carrier: {type: string, nullable: true}", "carrier: {type: string}")
    (tmp_path / CONTRACT).write_text(
        columns.replace("booking: {", "carrier: {").replace("carrier: {", "x: {", 1)
    )
    assert refusal(tmp_path)[-1].endswith(f"views.0: {NEVER} names a single event here")


def test_problems_of_several_files_are_told_together(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / DEFS).write_text(
        BOOKINGS + "      - file: other.yaml\n      - {file: ../shared/third.yaml}\n"
    )
    (tmp_path / "shared" / "third.yaml").write_text("pipeline: 3\n")
    lines = refusal(tmp_path)
    assert lines[0] == f"{tmp_path / DEFS} has 2 problems:"
    assert sum(line.endswith("cannot be used") for line in lines) == 2
    assert f"There is no file {tmp_path}/bookings/other.yaml" in lines
    assert any(line.endswith("third.yaml:1:1 views: is missing, and has no default") for line in lines)


def test_all_views_of_a_file_are_used_unless_some_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    second = SHARED[SHARED.index("  - name") :].replace(VIEW, "other")
    (tmp_path / FILE).write_text(SHARED + second)
    assert [view.name for view in load_spec(tmp_path / DEFS).shared] == [VIEW]
    (tmp_path / DEFS).write_text(BOOKINGS.replace("        views: [carrier_lateness]\n", ""))
    assert [view.name for view in load_spec(tmp_path / DEFS).shared] == [VIEW, "other"]


def test_the_file_may_lie_beside_its_pipeline(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / FILE).rename(tmp_path / "flights" / "carriers.yaml")
    file = tmp_path / "flights" / "carriers.yaml"
    file.write_text(file.read_text().replace("../flights", "."))
    for path in (tmp_path / DEFS, tmp_path / "flights" / "defs.yaml"):
        path.write_text(re.sub(r"[^ ]*carriers\.yaml", "../flights/carriers.yaml", path.read_text()))
    assert [view.pipeline for view in load_spec(tmp_path / DEFS).shared] == ["flights"]
    assert [view.pipeline for view in load_spec(tmp_path / "flights" / "defs.yaml").shared] == [None]


def test_two_pipelines_may_use_views_of_each_other(tmp_path: Path) -> None:
    write(tmp_path)
    view = "views:\n  - {name: spent, key: carrier, of: events, aggregate: {price: [sum]}, windows: [1d]}\n"
    (tmp_path / "shared" / "spent.yaml").write_text("pipeline: ../bookings\n" + view)
    flights = tmp_path / "flights" / "defs.yaml"
    flights.write_text(flights.read_text().replace("../shared/carriers.yaml", "../shared/spent.yaml"))
    assert [one.id.split("__")[:2] for one in load_spec(flights).shared] == [["bookings", "spent"]]
    assert [one.id.split("__")[:2] for one in load_spec(tmp_path / DEFS).shared] == [["flights", VIEW]]


def test_a_file_outside_the_folder_of_the_pipelines_is_refused(tmp_path: Path) -> None:
    from mlops_pipelines.spec_loading import _beside

    inside = PIPELINES / "a" / "defs.yaml"
    assert _beside(inside, "../shared/x.yaml") == PIPELINES / "shared" / "x.yaml"
    with pytest.raises(UserError, match=r"\.\./\.\./x\.yaml leads out of"):
        _beside(inside, "../../x.yaml")
