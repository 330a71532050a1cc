"""What a label is: true or false, a number, or a category; and what a model's scores say of it.

How a label is stored says its kind: whole numbers are binary (0 or 1), fractions numbers, texts categories.
So a training set, and whatever is made of it, needs no other word of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from mlops_pipelines.spec import CategoryMetric, Kind, Metric, NumberMetric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# What the column of a kind is called among those of a table.
COLUMN_TYPES: Mapping[Kind, str] = {"binary": "int", "number": "float", "category": "string"}
# Every figure of a kind, in the order in which they are told.
METRICS: Mapping[Kind, tuple[str, ...]] = {
    "binary": get_args(Metric),
    "number": get_args(NumberMetric),
    "category": get_args(CategoryMetric),
}
# Losses that each row has by itself; the first is what a search for parameters brings down.
LOSSES: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("log_loss", "brier"),
    "number": ("mse", "mae"),
    "category": ("log_loss", "brier"),
}
SKILLS: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("log_loss_skill", "brier_skill"),
    "number": ("r2",),
    "category": ("log_loss_skill", "brier_skill"),
}
# What a slice, or a disturbed holdout, is judged by; the first where nobody says otherwise.
SLICED: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss_skill"),
    "number": ("r2",),
    "category": ("roc_auc", "accuracy", "macro_f1", "log_loss_skill"),
}
# The column of a log that has the scores whole.
LOGGED_IN: Mapping[Kind, str] = {"binary": "score", "number": "score", "category": "probabilities"}
# Figures in the unit of a label, or its square: nobody knows where their digits begin.
IN_UNITS = frozenset({"rmse", "mse", "mae"})
# What a score has to be better than, to show skill.
BASELINE: Mapping[Kind, str] = {
    "binary": "the base rate",
    "number": "the mean of the training set",
    "category": "the base rates",
}


@dataclass(frozen=True)
class Outcome:
    """What the scores of a model are of.

    classes: of categories, those it learned from, sorted: the columns of its scores. mean: of numbers, that
    of the training rows, against which its skill is measured.
    """

    kind: Kind = "binary"
    classes: tuple[str, ...] = ()
    mean: float = 0.0

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | None) -> Outcome:
        """The outcome that `as_json` gave."""
        return cls() if found is None else cls(found["kind"], tuple(found["classes"]), found["mean"])

    @property
    def as_json(self) -> dict[str, Any] | None:
        """All of it; None of a binary one, which has nothing to say."""
        if self.kind == "binary":
            return None
        return {"kind": self.kind, "classes": list(self.classes), "mean": self.mean}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scores of a row: a number, or a probability for each class."""
        return (len(self.classes),) if self.kind == "category" else ()


BINARY = Outcome()


def kind_of(type_: pa.DataType) -> Kind:
    """The kind of the labels of a column of this type."""
    import pyarrow as pa

    if pa.types.is_floating(type_):
        return "number"
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    return "category" if any(is_text(type_) for is_text in text) else "binary"


def most_likely(outcome: Outcome, scores: Floats) -> pa.ChunkedArray:
    """The most likely class of each row; of equally likely ones the first. scores: shape (rows, classes)."""
    import pyarrow as pa

    classes = pa.array(outcome.classes, pa.string())
    return pa.chunked_array([classes.take(pa.array(scores.argmax(axis=1)))])


def logged(outcome: Outcome, scores: Floats) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Scores as the columns of a log, from which `from_log` reads the same bits.

    Of categories `score` is how likely the most likely class is, `predicted` that class, and `probabilities`
    those of all classes, as JSON.
    """
    import pyarrow as pa

    if outcome.kind != "category":
        return {"score": pa.array(scores, pa.float64())}
    rows = (dict(zip(outcome.classes, row, strict=True)) for row in scores.tolist())
    texts = [json.dumps(row, separators=(",", ":")) for row in rows]
    return {
        "score": pa.array(scores.max(axis=1), pa.float64()),
        "predicted": most_likely(outcome, scores),
        "probabilities": pa.array(texts, pa.string()),
    }


def from_log(kind: Kind, column: pa.ChunkedArray) -> tuple[Outcome, Floats]:
    """The scores of some logged rows, and what they are of. column: of the log, that of `LOGGED_IN`.

    Of categories, classes are those of all rows, sorted; 0 for one that a row's model did not know.
    """
    import numpy as np

    if kind != "category":
        return Outcome(kind), column.to_numpy()
    rows: list[dict[str, float]] = [json.loads(text) for text in column.to_pylist()]
    classes = tuple(sorted({name for row in rows for name in row}))
    scores = np.array([[row.get(name, 0.0) for name in classes] for row in rows], dtype=np.float64)
    return Outcome(kind, classes), scores.reshape(len(rows), len(classes))


def spelled(value: float, *, in_units: bool, sign: str = "") -> str:
    """A figure as text: to four decimals, or to five digits where it has the unit of a label."""
    return f"{value:{sign}.5g}" if in_units else f"{value:{sign}.4f}"


def aligned(scores: Floats, classes: Sequence[str], wanted: Sequence[str]) -> Floats:
    """Scores of some classes as those of others: 0 for one that is new. Shape (rows, len(wanted))."""
    import numpy as np

    places = {name: place for place, name in enumerate(classes)}
    made = np.zeros((len(scores), len(wanted)))
    for place, name in enumerate(wanted):
        if name in places:
            made[:, place] = scores[:, places[name]]
    return made
