"""What watching a day costs: the decision alone, and with the page that Evidently draws."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import Pair, row, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_ROWS = 20_000
LEARNED_DAYS = 14
MANY_ROWS = 1_000_000


@row("monitoring.drift_day", against="Evidently alone, on the rows that are drawn", bound=1.5)
def drift_day() -> Iterator[Pair]:
    """Decide on the drift of a day of 20 features, and draw the page of the ten that count most."""
    import numpy as np

    from mlops_pipelines.monitoring.drift import drift_of
    from mlops_pipelines.monitoring.evidently_page import SHOWN_ROWS, draw
    from mlops_pipelines.monitoring.reports import PAGE_FEATURES
    from tests.monitoring.test_drift_alarms import BANDS, FEATURES, partition, reference_of

    rng = np.random.default_rng(1)
    reference = reference_of(rng, LEARNED_DAYS, DAY_ROWS)
    learned, day = partition(rng, LEARNED_DAYS * DAY_ROWS), partition(rng, DAY_ROWS)
    kinds = {feature.name: feature for feature in FEATURES}
    foremost = [kinds[one.name] for one in drift_of(reference, day, BANDS).features[:PAGE_FEATURES]]
    # As many as the page draws, of the columns that it draws.
    drawn = [table.slice(0, SHOWN_ROWS).select([one.name for one in foremost]) for table in (learned, day)]
    with TemporaryDirectory() as folder:

        def ours() -> None:
            found = drift_of(reference, day, BANDS)
            shown = [kinds[one.name] for one in found.features[:PAGE_FEATURES]]
            draw(learned, day, shown, Path(folder) / "ours.html")

        def theirs() -> None:
            import evidently
            from evidently.presets import DataDriftPreset

            definition = evidently.DataDefinition(
                numerical_columns=[one.name for one in foremost if one.kind == "number"],
                categorical_columns=[one.name for one in foremost if one.kind == "category"],
            )
            before, now = (
                evidently.Dataset.from_pandas(table.to_pandas(), data_definition=definition)
                for table in drawn
            )
            report = evidently.Report([DataDriftPreset()])
            report.run(now, before).save_html(str(Path(folder) / "theirs.html"))

        yield Pair(seconds(ours), seconds(theirs))


@row("monitoring.decision_1m", against="NumPy's histograms of the same numbers", at_most=2.0)
def decision_1m() -> Iterator[Pair]:
    """Decide on the drift of 1,000,000 rows of 20 features."""
    import numpy as np

    from mlops_pipelines.monitoring.drift import drift_of
    from tests.monitoring.test_drift_alarms import BANDS, NUMBERS, partition, reference_of

    rng = np.random.default_rng(2)
    reference = reference_of(rng, 30, 10_000)
    day = partition(rng, MANY_ROWS)
    numbers = {name: day[name].to_numpy() for name in NUMBERS}

    def theirs() -> None:
        for values in numbers.values():
            known = values[~np.isnan(values)]
            np.histogram(known, bins=np.quantile(known[:10_000], np.linspace(0, 1, 11)))

    yield Pair(seconds(lambda: drift_of(reference, day, BANDS)), seconds(theirs))
