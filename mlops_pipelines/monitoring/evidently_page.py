"""Pages to look at: Evidently's reports on a day's drift beside the training set, and on a model's scores.

They show; they do not decide. That is for `monitoring.drift`, on the bins stored with the champion, and
`gates`.
"""

from __future__ import annotations

import html
import os
import warnings
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.views import FeatureColumn
    from mlops_pipelines.outcomes import Outcome

    Floats = NDArray[np.float64]

# Enough to see every shape; a report on 200,000 rows takes nine times as long and looks the same.
SHOWN_ROWS = 5_000
_SEED = 17


def draw(
    reference: pa.Table, current: pa.Table, features: Sequence[FeatureColumn], path: Path
) -> dict[str, float]:
    """Write the page to `path` (HTML that needs no network, about 4 MB), all of it or nothing.

    Returns Evidently's own population stability index of each feature that is drawn, in nats: over its own
    bins, of the rows that are drawn.

    reference, current: training rows and a day's rows, one column a feature; at most 5,000 of each are
    drawn, the same ones each time. A feature without any value in either has nothing to show and is left
    out. Raises TerminalError if a table has no rows or no feature has values in both.
    """
    before, now = _sample(reference, features), _sample(current, features)
    shown = [f for f in features if before[f.name].notna().any() and now[f.name].notna().any()]
    if not shown:
        raise TerminalError(
            f"There is nothing to draw on {path.name}: no feature has values in both tables.",
            expected=f"rows in both; there are {reference.num_rows} and {current.num_rows}",
        )
    drawn, indices = _report(before, now, shown)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(drawn, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return indices


def of_scores(labels: Sequence[Any], scores: Floats, outcome: Outcome, threshold: float) -> tuple[str, str]:
    """What Evidently calls its report on scores of such an outcome, and the report; as `classification`.

    labels: 0 or 1, numbers or texts, of the same rows. threshold: of a binary outcome. What it cannot draw is
    said in the report's place: it shows, and decides nothing.
    """
    name = "regression" if outcome.kind == "number" else "classification"
    try:
        if outcome.kind == "number":
            return name, regression(labels, scores.tolist())
        if outcome.kind == "category":
            return name, multiclass(labels, scores, outcome.classes)
        return name, classification(labels, scores.tolist(), threshold)
    except ValueError as error:  # of its histograms, where values differ by rounding alone
        return name, f"<p>Evidently cannot draw these rows: {html.escape(str(error))}</p>"


def regression(labels: Sequence[float], scores: Sequence[float]) -> str:
    """Evidently's report on predicted numbers; as `classification`."""
    import pandas as pd

    evidently, presets = _evidently()
    definition = evidently.DataDefinition(
        numerical_columns=["label", "score"],
        regression=[evidently.Regression(target="label", prediction="score")],
    )
    frame = _drawn(pd.DataFrame({"label": labels, "score": scores}))
    return _html(evidently.Dataset.from_pandas(frame, data_definition=definition), presets.RegressionPreset())


def multiclass(labels: Sequence[str], scores: Floats, classes: Sequence[str]) -> str:
    """Evidently's report on the most likely classes; as `classification`. scores: shape (rows, classes)."""
    import pandas as pd

    evidently, presets = _evidently()
    predicted = [classes[code] for code in scores.argmax(axis=1)]
    definition = evidently.DataDefinition(
        categorical_columns=["label", "predicted"],
        classification=[evidently.MulticlassClassification(target="label", prediction_labels="predicted")],
    )
    frame = _drawn(pd.DataFrame({"label": labels, "predicted": predicted}))
    dataset = evidently.Dataset.from_pandas(frame, data_definition=definition)
    return _html(dataset, presets.ClassificationPreset())


def classification(labels: Sequence[int], scores: Sequence[float], threshold: float) -> str:
    """Evidently's report on scores and outcomes, HTML that needs no network, of at most 5,000 rows.

    labels: 0 or 1, of both; scores: probabilities; threshold: from which on a score is decided as positive.
    """
    import pandas as pd

    evidently, presets = _evidently()
    frame = _drawn(pd.DataFrame({"label": labels, "score": scores}))
    frame["decision"] = (frame["score"] >= threshold).astype(int)
    definition = evidently.DataDefinition(
        numerical_columns=["score"],
        categorical_columns=["label", "decision"],
        classification=[
            evidently.BinaryClassification(
                target="label", prediction_labels="decision", prediction_probas="score", pos_label=1
            )
        ],
    )
    data = evidently.Dataset.from_pandas(frame, data_definition=definition)
    return _html(data, presets.ClassificationPreset(probas_threshold=threshold))


def _drawn(frame: pd.DataFrame) -> pd.DataFrame:
    """At most 5,000 of the rows, in their order."""
    return frame if len(frame) <= SHOWN_ROWS else frame.sample(SHOWN_ROWS, random_state=_SEED).sort_index()


def _html(data: Any, preset: Any) -> str:
    evidently, _ = _evidently()
    report = evidently.Report([preset])
    with warnings.catch_warnings():
        # Where nothing is decided as positive, scikit-learn says of each figure that it is undefined.
        warnings.filterwarnings("ignore", message=".*is ill-defined", category=UserWarning)
        # It also measures its own baselines, some of them on a single row.
        warnings.filterwarnings("ignore", message="R.2 score is not well-defined", category=UserWarning)
        drawn: str = report.run(data, None).get_html_str(as_iframe=False)
    return drawn


def _sample(table: pa.Table, features: Sequence[FeatureColumn]) -> pd.DataFrame:
    """At most 5,000 rows of the features, in the table's order."""
    import numpy as np
    import pyarrow as pa

    columns = table.select([feature.name for feature in features])
    if columns.num_rows > SHOWN_ROWS:
        drawn = np.random.default_rng(_SEED).choice(columns.num_rows, SHOWN_ROWS, replace=False)
        columns = columns.take(pa.array(np.sort(drawn)))
    frame: pd.DataFrame = columns.to_pandas()
    return frame


def _report(
    before: pd.DataFrame, now: pd.DataFrame, features: Sequence[FeatureColumn]
) -> tuple[str, dict[str, float]]:
    evidently, presets = _evidently()
    definition = evidently.DataDefinition(
        numerical_columns=[feature.name for feature in features if feature.kind == "number"],
        categorical_columns=[feature.name for feature in features if feature.kind == "category"],
    )
    names = [feature.name for feature in features]
    reference, current = (
        evidently.Dataset.from_pandas(frame[names], data_definition=definition) for frame in (before, now)
    )
    report = evidently.Report([presets.DataDriftPreset(num_method="psi", cat_method="psi")])
    measured = report.run(current, reference)
    indices = {
        metric["config"]["column"]: float(metric["value"])
        for metric in measured.dict()["metrics"]
        if "column" in metric["config"]
    }
    return measured.get_html_str(as_iframe=False), indices


def _evidently() -> tuple[Any, Any]:
    # Evidently reports its use unless this is set before it is imported.
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        # evidently 0.7.23 imports `numpy.core`, and a web server that decorates itself with names
        # litestar 2.23 has deprecated; neither is used here. Can go when an import is silent.
        warnings.filterwarnings("ignore", message="numpy.core is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*deprecated.*litestar 2", category=DeprecationWarning)
        import evidently
        import evidently.presets

    return evidently, evidently.presets
