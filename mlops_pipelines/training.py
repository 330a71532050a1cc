"""Learning: a table of examples and labels becomes a model that is text and nothing else.

LightGBM's, or that of a trainer of the pipeline's own (`mlops_pipelines.trainers`).

A candidate is trained twice. The *twin* never sees the holdout, so that the holdout can judge it; the
*refit* sees every row and is what would be promoted.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.outcomes import BINARY, Outcome, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.views import FeatureColumn
    from mlops_pipelines.spec import Kind, Training
    from mlops_pipelines.trainers import Scorer

# OpenMP threads spin at every barrier unless told to sleep. On cores that are shared (containers, CI) two
# threads then take ten times as long as one. Read once, when libgomp is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Parameters of LightGBM that are ours: what the label is, and what makes the text of a model repeatable
# (https://lightgbm.readthedocs.io/en/latest/Parameters.html#deterministic).
OBJECTIVES: Mapping[Kind, str] = {"binary": "binary", "number": "regression", "category": "multiclass"}
FIXED_PARAMS: Mapping[str, str | int | bool] = {
    "deterministic": True,
    "force_row_wise": True,
    "metric": "None",
    "verbosity": -1,
}
LIGHTGBM_FILE = "model.lgb"
TEXT_FILE = "model.txt"  # of any other trainer
_ENCODING_FILE = "encoding.json"
_FORMAT = 2
# What a model's importances are, and in what: those of a binary label stand for themselves.
_UNITS: Mapping[Kind, str] = {
    "binary": "log odds",
    "number": "unit of the label",
    "category": "log odds, mean of the classes",
}
_SHAP, _PERMUTED = "mean absolute SHAP", "mean absolute change when permuted"
SHAP, PERMUTED = f"{_SHAP}, {_UNITS['binary']}", f"{_PERMUTED}, {_UNITS['binary']}"
# A text by mistake has thousands: a model of them would be trained for days, and fill the log.
MOST_CLASSES = 200
# Log odds are finite between these scores.
_SURE = 1e-6


@dataclass(frozen=True)
class TrainedModel:
    """A model as text, with all that is needed to feed it and to say what it was made of.

    text: LightGBM's of its booster, or that of `trainer` (module:Class), where it is another's.

    categories: values by category feature, sorted; the position is the code. view_versions: JSON, of the
    vectors it was trained on, and the only ones it is fed. rows: training rows.
    cutoff: greatest decision time among them (UTC). first_day, last_day: their span, YYYY-MM-DD. outcome:
    what its scores are of.
    """

    text: str
    features: tuple[FeatureColumn, ...]
    categories: Mapping[str, tuple[str, ...]]
    view_versions: str
    params: Mapping[str, str | int | float | bool]
    rows: int
    cutoff: datetime
    first_day: str
    last_day: str
    trainer: str | None = None
    outcome: Outcome = BINARY

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the model's text, its encoding and its trainer: two models of one hash score alike."""
        digest = hashlib.sha256(self.text.encode())
        digest.update(_canonical_json(self._encoding()).encode())
        return digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of the model's text."""
        return len(self.text.encode())

    def predict(self, table: pa.Table) -> NDArray[np.float64]:
        """What the model says of each row, in the order of the table.

        Of a binary label the probability of 1, of a number the number, shape (rows,); of a category the
        probability of each class, shape (rows, classes).

        A row's score does not depend on the rows beside it. Raises TerminalError for a missing feature, and
        for vectors of other versions of the views than the model was trained on.
        """
        import numpy as np

        if table.num_rows == 0:
            return np.empty((0, *self.outcome.shape), dtype=np.float64)
        if not self.is_fed_by(table):
            raise TerminalError(
                f"The vectors are of the views {_view_versions(table)}.",
                expected=f"those that the model was trained on, {self.view_versions}",
                remedy="feed it the examples of its own feature set",
            )
        matrix = encode(table, self.features, self.categories)
        return self._score(matrix, self._threads)

    def is_fed_by(self, table: pa.Table) -> bool:
        """Whether all vectors of the table are of the versions that the model was trained on."""
        return _view_versions(table) == self.view_versions

    def predict_one(self, row: Mapping[str, Any]) -> Any:
        """What `predict` says of one row, as float or array: values by feature name, None where unknown."""
        import numpy as np

        values = [self._code(feature, row[feature.name]) for feature in self.features]
        # More threads than one only wait for each other on a single row.
        score = self._score(np.array([values], dtype=np.float64), 1)[0]
        return score if self.outcome.shape else float(score)

    def matrix(self, table: pa.Table) -> NDArray[np.float64]:
        """The table as the model takes it: as `encode` gives it, shape (rows, features)."""
        return encode(table, self.features, self.categories)

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """What `predict` says, of rows as `matrix` gives them."""
        return self._score(matrix, self._threads)

    def contributions(self, table: pa.Table) -> NDArray[np.float64]:
        """What each feature says in each row's score, shape (rows, features).

        Log odds; of a number its unit; of a category the mean over the classes of the absolute log odds.
        LightGBM: TreeSHAP values without the bias (Lundberg et al. 2020). Of another trainer, which cannot be
        asked: the change of the score when the feature has the value of another row (Breiman 2001, without
        the labels), the rows shuffled once.
        """
        import numpy as np

        matrix = encode(table, self.features, self.categories)
        if self.trainer is not None:
            return self._permuted(matrix)
        shap: NDArray[np.float64] = self.booster.predict(matrix, pred_contrib=True, num_threads=self._threads)
        if not self.outcome.shape:
            return shap[:, :-1]
        by_class = shap.reshape(len(matrix), *self.outcome.shape, -1)[:, :, :-1]
        means: NDArray[np.float64] = np.abs(by_class).mean(axis=1)
        return means

    @property
    def importance_unit(self) -> str:
        """What the mean of its absolute contributions is."""
        return f"{_SHAP if self.trainer is None else _PERMUTED}, {_UNITS[self.outcome.kind]}"

    @cached_property
    def booster(self) -> Any:
        """The `lightgbm.Booster`, read from the text once; of no other trainer's model."""
        return _lightgbm().Booster(model_str=self.text)

    @cached_property
    def _scorer(self) -> Scorer:
        from mlops_pipelines.trainers import scorer_of

        return scorer_of(str(self.trainer), self.text, self.outcome)

    def _score(self, matrix: NDArray[np.float64], threads: int) -> NDArray[np.float64]:
        if self.trainer is not None:
            return self._scorer(matrix)
        scores: NDArray[np.float64] = self.booster.predict(matrix, num_threads=threads)
        return scores

    def _permuted(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        def said(rows: NDArray[np.float64]) -> NDArray[np.float64]:
            scores = self._score(rows, self._threads)
            if self.outcome.kind == "number":
                return scores
            scores = np.clip(scores, _SURE, 1 - _SURE)
            return np.log(scores) - np.log1p(-scores)

        others = np.random.default_rng(int(self.params["seed"])).permutation(len(matrix))
        given, changes = said(matrix), np.empty_like(matrix)
        for feature in range(matrix.shape[1]):
            rows = matrix.copy()
            rows[:, feature] = matrix[others, feature]
            change = given - said(rows)
            changes[:, feature] = np.abs(change).mean(axis=1) if self.outcome.shape else change
        return changes

    @property
    def file(self) -> str:
        """Name of the file of its text."""
        return _file_name(self.trainer)

    def to_files(self) -> dict[str, str]:
        """Text by file name: the model's own, and the encoding as JSON."""
        about = {
            "format": _FORMAT,
            "hash": self.hash,
            **self._encoding(),
            "params": dict(self.params),
            "rows": self.rows,
            "cutoff": self.cutoff.isoformat(),
            "first_day": self.first_day,
            "last_day": self.last_day,
        }
        return {self.file: self.text, _ENCODING_FILE: json.dumps(about, indent=1) + "\n"}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> TrainedModel:
        """The model that `to_files` wrote. Raises TerminalError if a file is missing or was changed."""
        from mlops_pipelines.features.views import FeatureColumn

        about = json.loads(files.get(_ENCODING_FILE, "{}"))
        text_file = _file_name(about.get("trainer"))
        missing = {text_file, _ENCODING_FILE} - set(files)
        if missing:
            raise TerminalError(f"The model's files lack {', '.join(sorted(missing))}.")
        if about.get("format") != _FORMAT:
            raise TerminalError(
                f"The model's files are of format {about.get('format')!r}.",
                expected=f"format {_FORMAT}",
                remedy="run the version of mlops_pipelines that wrote the model",
            )
        model = cls(
            text=files[text_file],
            features=tuple(FeatureColumn(name=f["name"], kind=f["kind"]) for f in about["features"]),
            categories={name: tuple(values) for name, values in about["categories"].items()},
            view_versions=about["view_versions"],
            params=about["params"],
            rows=about["rows"],
            cutoff=datetime.fromisoformat(about["cutoff"]),
            first_day=about["first_day"],
            last_day=about["last_day"],
            trainer=about.get("trainer"),
            outcome=Outcome.from_json(about.get("outcome")),
        )
        if model.hash != about["hash"]:
            raise TerminalError(
                f"The model's files hash to {model.hash[:12]}, they were written as {about['hash'][:12]}."
            )
        return model

    @cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        return {
            name: {value: code for code, value in enumerate(values)}
            for name, values in self.categories.items()
        }

    @property
    def _threads(self) -> int:
        return int(self.params["num_threads"])

    def _code(self, feature: FeatureColumn, value: Any) -> float:
        if value is None:
            return float("nan")
        if feature.kind == "category":
            return self._codes[feature.name].get(value, float("nan"))
        return float(value)

    def _encoding(self) -> dict[str, Any]:
        return {
            "features": [{"name": f.name, "kind": f.kind} for f in self.features],
            "categories": {name: list(values) for name, values in sorted(self.categories.items())},
            "view_versions": self.view_versions,
            **({"trainer": self.trainer} if self.trainer else {}),
            # A binary one is not told: models of before it was have their hashes still.
            **({"outcome": outcome} if (outcome := self.outcome.as_json) else {}),
        }


@dataclass(frozen=True)
class Candidate:
    """A model on trial.

    refit: what would be promoted. twin: the same recipe without the holdout's days; the refit itself where
    the pipeline does not refit. holdout: the rows it is judged on.
    """

    refit: TrainedModel
    twin: TrainedModel
    holdout: pa.Table
    train_days: tuple[str, ...]
    holdout_days: tuple[str, ...]


@dataclass(frozen=True)
class Incumbent:
    """The champion a candidate has to stand against: its refit, its twin and its registry version.

    vectors: the holdout's events as the champion is fed them; None where the candidate is fed the same.
    """

    refit: TrainedModel
    twin: TrainedModel
    version: str
    vectors: pa.Table | None = None


def split_holdout(days: Sequence[str], training: Training) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Days to learn from and days to be judged on, both ascending; the latter are the latest.

    days: distinct, YYYY-MM-DD. The holdout reaches back at most `training.holdout` from the last day and is
    at most a quarter of the days there are. Raises TerminalError for fewer than four days.
    """
    ordered = tuple(sorted(set(days)))
    at_most = len(ordered) // 4
    if at_most == 0:
        raise TerminalError(
            f"There are labelled examples of {len(ordered)} days.",
            expected="at least 4 days, so that a quarter of them can be held out",
        )
    span = max(training.holdout // timedelta(days=1), 1)
    start = date.fromisoformat(ordered[-1]) - timedelta(days=span - 1)
    count = min(at_most, sum(day >= start.isoformat() for day in ordered))
    return ordered[:-count], ordered[-count:]


def fit_candidate(table: pa.Table, features: Sequence[FeatureColumn], training: Training) -> Candidate:
    """A candidate from all labelled rows of the training window.

    table: day, event_id, decision_time, one column a feature, view_versions, label; more columns are kept in
    the holdout. Raises TerminalError for fewer than `training.min_rows` rows, fewer than four days, or one
    outcome.
    """
    check_rows(table, training)
    train_days, _ = split_holdout(_text(table, "day").unique().to_pylist(), training)
    twin = train(of_days(table, train_days), features, training)
    refit = train(table, features, training) if training.refit else twin
    return candidate_of(refit, twin, table, training)


def check_rows(table: pa.Table, training: Training) -> None:
    """Raises TerminalError for fewer rows than a model is to be trained on."""
    if table.num_rows < training.min_rows:
        raise TerminalError(
            f"There are {table.num_rows} labelled examples.",
            expected=f"at least {training.min_rows} (training.min_rows)",
        )


def candidate_of(refit: TrainedModel, twin: TrainedModel, table: pa.Table, training: Training) -> Candidate:
    """The candidate that `fit_candidate` made of `table`, from its two models.

    training: what it was fitted with. Raises TerminalError where the twin has seen a day of the holdout.
    """
    train_days, holdout_days = split_holdout(_text(table, "day").unique().to_pylist(), training)
    if twin.last_day >= holdout_days[0]:
        raise TerminalError(
            f"The twin of this candidate has learned from days up to {twin.last_day}.",
            expected=f"days before its holdout, which begins on {holdout_days[0]}",
        )
    holdout = in_order(of_days(table, holdout_days))
    return Candidate(refit, twin, holdout, train_days, holdout_days)


def train(table: pa.Table, features: Sequence[FeatureColumn], training: Training) -> TrainedModel:
    """A model of the table's rows, the same bytes whatever their order.

    table: day, event_id, decision_time (UTC), one column a feature, view_versions, label (not null): 0 or 1,
    a fraction or a text, which says what is learned. Repeatable on one kind of machine and one number of
    threads (LightGBM #6683 on others). Raises TerminalError for an empty table, a label of one outcome, a
    missing column, vectors of several versions of the views, parameters LightGBM refuses, or a trainer that
    fails.
    """
    return _trained(table, features, _params(training), training.trainer)


def train_again(table: pa.Table, made: TrainedModel) -> TrainedModel:
    """The model that the recipe of `made` gives: its features and parameters, on the days it learned from.

    table: as in `train`, and of the rows that `made` was trained on at least. On the same rows, kind of
    machine and libraries it has the same hash. Raises as `train` does.
    """
    days = [day for day in _text(table, "day").unique().to_pylist() if made.first_day <= day <= made.last_day]
    return _trained(of_days(table, days), made.features, made.params, made.trainer)


def _trained(
    table: pa.Table,
    features: Sequence[FeatureColumn],
    params: Mapping[str, str | int | float | bool],
    trainer: str | None,
) -> TrainedModel:
    import pyarrow.compute as pc

    from mlops_pipelines.trainers import text_of

    rows = in_order(table)
    outcome, labels = _learned(rows)
    if trainer is None:
        classes = {"num_class": len(outcome.classes)} if outcome.shape else {}
        params = {**params, "objective": OBJECTIVES[outcome.kind], **classes}
    categories = {f.name: _categories(rows, f.name) for f in features if f.kind == "category"}
    matrix = encode(rows, features, categories)
    if trainer is None:
        text = _boost(matrix, labels, features, params)
    else:
        text = text_of(trainer, matrix, labels, features, params)
    span = pc.min_max(_text(rows, "day")).as_py()
    return TrainedModel(
        text=text,
        features=tuple(features),
        categories=categories,
        view_versions=_view_versions(rows),
        params=params,
        rows=rows.num_rows,
        cutoff=pc.max(rows["decision_time"]).as_py().astimezone(UTC),
        first_day=span["min"],
        last_day=span["max"],
        trainer=trainer,
        outcome=outcome,
    )


def in_order(table: pa.Table) -> pa.Table:
    """The rows by decision time and event: the order in which sums over them are the same."""
    # LightGBM sums gradients in the order of the rows, so the order is part of the result.
    return table.sort_by([("decision_time", "ascending"), ("event_id", "ascending")])


def of_days(table: pa.Table, days: Sequence[str]) -> pa.Table:
    """The rows of these days, YYYY-MM-DD."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return table.filter(pc.is_in(_text(table, "day"), value_set=pa.array(days, pa.string())))


def spread(table: pa.Table, rows: int) -> pa.Table:
    """So many rows at most, spread evenly over the table."""
    import numpy as np

    picked = np.linspace(0, table.num_rows - 1, min(rows, table.num_rows)).astype(np.int64)
    return table.take(np.unique(picked))


def encode(
    table: pa.Table, features: Sequence[FeatureColumn], categories: Mapping[str, Sequence[str]]
) -> NDArray[np.float64]:
    """The table as LightGBM takes it: float64, shape (rows, features), NaN where missing or never seen.

    A category is the position of its value in `categories`. Raises TerminalError for a column that is missing
    or not of its feature's kind.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    matrix = np.empty((table.num_rows, len(features)), dtype=np.float64)
    for position, feature in enumerate(features):
        column = _text(table, feature.name) if feature.kind == "category" else _column(table, feature.name)
        if feature.kind == "category":
            known = pa.array(categories[feature.name], pa.string())
            column = pc.index_in(column, value_set=known)
        elif not _is_number(column.type):
            raise TerminalError(f"Feature {feature.name} is {column.type}.", expected="a number")
        matrix[:, position] = column.cast(pa.float64()).to_numpy()
    return matrix


def _boost(
    matrix: NDArray[np.float64],
    labels: NDArray[np.float64],
    features: Sequence[FeatureColumn],
    params: Mapping[str, str | int | float | bool],
) -> str:
    lightgbm = _lightgbm()
    settings = dict(params)
    trees = int(settings.pop("n_estimators"))
    try:
        data = lightgbm.Dataset(
            matrix,
            label=labels,
            feature_name=[f.name for f in features],
            categorical_feature=[i for i, f in enumerate(features) if f.kind == "category"],
            params=settings,
        )
        text: str = lightgbm.train(settings, data, num_boost_round=trees).model_to_string()
    except lightgbm.basic.LightGBMError as error:
        raise TerminalError(f"LightGBM refused to train: {error}") from error
    return text


def _params(training: Training) -> dict[str, str | int | float | bool]:
    ours: dict[str, str | int | float | bool] = {"seed": training.seed, "num_threads": training.threads}
    if training.trainer is None:
        ours |= FIXED_PARAMS
    known_later = {"objective", "num_class"} if training.trainer is None else set()
    taken = sorted({*ours, *known_later} & set(training.params))
    if taken:
        raise TerminalError(
            f"training.params sets {', '.join(taken)}, which the pipeline sets itself.",
            remedy="use training.seed and training.threads, and leave out the rest",
        )
    defaults = {"n_estimators": 100} if training.trainer is None else {}
    return {**defaults, **training.params, **ours}


def _learned(table: pa.Table) -> tuple[Outcome, NDArray[np.float64]]:
    """What there is to learn, and the labels as numbers; of categories the positions among the classes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _column(table, "label")
    kind = kind_of(column.type)
    if kind == "category":
        column = column.cast(pa.string())
    there = column.unique().sort()
    few = there[:5].to_pylist()
    if kind == "binary" and not {*few} <= {0, 1}:
        raise TerminalError(f"The label holds {few}.", expected="0 and 1, never null")
    if there.null_count or (kind == "number" and not pc.all(pc.is_finite(there)).as_py()):
        raise TerminalError(
            f"The label of some of {table.num_rows} training rows is missing, or no finite number.",
            expected="one in each, as the contract asks for",
        )
    if len(there) < 2:
        raise TerminalError(
            f"The label of all {table.num_rows} training rows is {few}.",
            expected="both outcomes among them" if kind == "binary" else "different ones among them",
        )
    if kind == "category":
        if len(there) > MOST_CLASSES:
            raise TerminalError(
                f"The label has {len(there):,} classes, such as {', '.join(map(repr, few))}.",
                expected=f"at most {MOST_CLASSES}, since each round of training grows a tree for each",
                remedy="group them where the labels are made",
            )
        codes: NDArray[np.float64] = pc.index_in(column, value_set=there).cast(pa.float64()).to_numpy()
        return Outcome(kind, tuple(there.to_pylist())), codes
    labels: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return Outcome(kind, mean=float(labels.mean())) if kind == "number" else BINARY, labels


def _view_versions(table: pa.Table) -> str:
    """Of the vectors of the table, as the examples have them. Raises TerminalError if they are several."""
    versions = sorted(_text(table, "view_versions").unique().to_pylist(), key=str)
    if len(versions) != 1:
        raise TerminalError(
            f"The vectors are of {len(versions)} versions of the views.", expected="one version of each"
        )
    return str(versions[0])


def _categories(table: pa.Table, name: str) -> tuple[str, ...]:
    return tuple(sorted(value for value in _text(table, name).unique().to_pylist() if value is not None))


def _text(table: pa.Table, name: str) -> Any:
    import pyarrow as pa

    column = _column(table, name)
    if not (_is_text(column.type) or pa.types.is_dictionary(column.type)):
        raise TerminalError(f"Column {name} is {column.type}.", expected="text")
    return column.cast(pa.string())


def _column(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        raise TerminalError(f"Column {name} is missing.", expected=f"it beside {table.column_names[:8]} …")
    return table[name]


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    # A column of nothing but nulls may come untyped.
    checks = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    return any(check(kind) for check in checks)


def _canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _file_name(trainer: str | None) -> str:
    return LIGHTGBM_FILE if trainer is None else TEXT_FILE


def _lightgbm() -> ModuleType:
    import lightgbm

    return lightgbm
