"""Features that are Python functions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features import functions
from mlops_pipelines.features.in_use import vectors
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.home import Home
from mlops_pipelines.spec_checks import columns_by_feature, cross_check
from mlops_pipelines.spec_loading import LoadedSpec

from .world import CONTRACT, MOMENT, START, World, examples_of, make_spec, order

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.spec import PipelineSpec

MODULE = "tests.features.functions"


def spec_with(function: str, columns: list[str], type_: str = "number", module: str = MODULE) -> PipelineSpec:
    feature = {"function": f"{module}:{function}", "columns": columns, "type": type_}
    return make_spec([], from_event={}, features={"from_python": {"made": feature}})


def values(root: Path, spec: PipelineSpec, **orders: Any) -> dict[str, Any]:
    world = World([replace(order(name, hours), **changes) for name, (hours, changes) in orders.items()])
    return {name: row["made"] for name, row in examples_of(root, world, spec).items()}


def test_a_function_gives_a_number_or_a_category_a_row(tmp_path: Path) -> None:
    spec = spec_with("is_holiday", ["placed_at"])
    assert values(tmp_path / "a", spec, o=(1.0, {}), p=(25.0, {})) == {"o": 0.0, "p": 1.0}
    assert [(column.name, column.kind) for column in feature_set(spec, CONTRACT).columns] == [
        ("made", "number")
    ]
    spec = spec_with("shouted", ["kind"], "category")
    assert values(tmp_path / "b", spec, o=(1.0, {"kind": "x"}), p=(1.0, {"kind": None})) == {
        "o": "X",
        "p": None,
    }
    spec = spec_with("doubled", ["weight"])
    assert values(tmp_path / "c", spec, o=(1.0, {})) == {"o": None}, "what is no finite number is missing"


@pytest.mark.parametrize(
    ("function", "columns", "problem"),
    [
        ("share_of_all", ["weight"], "gives other values for the same rows"),
        ("by_chance", ["weight"], "gives other values for the same rows"),
        ("too_few", ["weight"], "gave 99 values for 100 rows"),
        ("a_text", ["weight"], "failed: ArrowInvalid"),
        ("fails", ["kind"], "failed: ValueError: what is x"),
    ],
)
def test_a_function_that_breaks_its_promise_is_refused(
    tmp_path: Path, function: str, columns: list[str], problem: str
) -> None:
    orders = {f"o{n}": (0.1 * n, {"weight": n}) for n in range(100)}
    with pytest.raises(TerminalError, match=problem):
        values(tmp_path, spec_with(function, columns), **orders)


@pytest.mark.parametrize(
    ("function", "module", "columns", "problem"),
    [
        (
            "shoute",
            MODULE,
            ["kind"],
            "functions.py) has no function shoute; did you mean shouted? (allowed: ",
        ),
        ("NO_FUNCTION", MODULE, ["kind"], "NO_FUNCTION of tests.features.functions is no function written"),
        ("pc", MODULE, ["kind"], "functions.py; write `def pc(rows):` there"),
        ("shouted", "tests.nowhere", ["kind"], "there is no module tests.nowhere; a file NAME.py beside"),
        ("shouted", "nowhere.at.all", ["kind"], "there is no module nowhere.at.all; a file NAME.py beside"),
        ("sqrt", "math", ["kind"], "math is not a .py file"),
        ("shouted", MODULE, ["kin"], "kin is no column of the event; did you mean kind?"),
        ("shouted", MODULE, ["order_no"], "order_no is no column of the event"),
    ],
)
def test_what_cannot_be_is_refused_when_the_pipeline_is_loaded(
    function: str, module: str, columns: list[str], problem: str
) -> None:
    spec = spec_with(function, columns, "category", module)
    assert problem in " ".join(found.text for found in cross_check(spec, CONTRACT))


def test_the_version_changes_with_the_file_of_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_features.py").write_text("def made(rows): return [1.0] * rows.num_rows\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = spec_with("made", ["kind"], module="own_features")
    before = feature_set(spec, CONTRACT).view_versions
    assert functions.source_of("own_features:made") == tmp_path / "own_features.py"
    (tmp_path / "own_features.py").write_text("def made(rows): return [2.0] * rows.num_rows\n")
    after = feature_set(spec, CONTRACT).view_versions
    assert before["from_event"] == after["from_event"]
    assert before["from_python"] != after["from_python"]
    assert "from_python" not in feature_set(make_spec([]), CONTRACT).view_versions


def test_values_are_of_the_text_that_their_version_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_here.py"
    monkeypatch.syspath_prepend(tmp_path)
    for number in (1.0, 2.0):  # the same length, within one tick of the file's clock
        file.write_text(f"def made(rows): return [{number}] * rows.num_rows\n")
        spec = spec_with("made", ["kind"], module="edited_here")
        assert values(tmp_path / str(number), spec, o=(1.0, {})) == {"o": number}
    later = feature_set(spec, CONTRACT)
    file.write_text("def made(rows): return [3.0] * rows.num_rows\n")
    with pytest.raises(TerminalError, match="was changed after the feature was defined") as refused:
        functions.evaluate_functions(later.from_python, pa.table({"kind": ["x"]}), hidden=False)
    assert "reload the code location" in str(refused.value)


def test_a_module_may_look_itself_up_and_says_why_it_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
    head += "@dataclass\nclass A:\n    n: int\n"
    (tmp_path / "with_a_class.py").write_text(f"{head}\n\ndef made(rows): return [A(5).n] * rows.num_rows\n")
    spec = spec_with("made", ["kind"], module="with_a_class")
    assert values(tmp_path / "a", spec, o=(1.0, {})) == {"o": 5.0}
    (tmp_path / "that_fails.py").write_text("import not_there\n\n\ndef made(rows): return None\n")
    with pytest.raises(TerminalError, match="that_fails cannot be imported: ModuleNotFoundError"):
        values(tmp_path / "b", spec_with("made", ["kind"], module="that_fails"), o=(1.0, {}))


def test_a_file_beside_a_pipeline_is_found_from_every_folder(tmp_path: Path) -> None:
    code = (
        "from mlops_pipelines.features.functions import PIPELINES, source_of\n"
        "print(source_of(f'{PIPELINES}.flight_delays.source:_days'))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("pipelines/flight_delays/source.py")


def test_a_function_is_lineage_of_the_columns_it_declares() -> None:
    assert columns_by_feature(spec_with("shouted", ["kind"]), CONTRACT) == {"made": ("kind",)}


def test_what_fails_on_a_sensitive_row_is_not_told(tmp_path: Path) -> None:
    columns = CONTRACT.events.columns | {
        "kind": CONTRACT.events.columns["kind"].model_copy(update={"sensitive": True})
    }
    contract = CONTRACT.model_copy(update={"events": CONTRACT.events.model_copy(update={"columns": columns})})
    spec = spec_with("fails", ["kind"])
    place = Home.create(tmp_path).pipeline(LoadedSpec(spec, contract, tmp_path / "defs.yaml"))
    times = pa.array([START], MOMENT)
    rows = pa.table({"day": ["2024-03-04"], "event_id": ["o"], "event_time": times, "decision_time": times,
                     "kind": ["JANE"]})  # fmt: skip
    with pytest.raises(TerminalError) as refused:
        vectors(place, place.features, rows, {})
    assert "JANE" not in str(refused.value)
