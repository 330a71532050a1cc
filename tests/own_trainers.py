"""Trainers that a pipeline's author might bring, good ones and others."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_pipelines.features.views import FeatureColumn
    from mlops_pipelines.trainers import Floats, Scorer


class Logistic:
    """Logistic regression by gradient descent; a missing value counts as the mean."""

    def train(
        self,
        matrix: Floats,
        labels: Floats,
        *,
        features: Sequence[FeatureColumn],
        params: Mapping[str, str | int | float | bool],
        seed: int,
        threads: int,
    ) -> str:
        known = {"mean": np.nan_to_num(np.nanmean(matrix, axis=0)), "scale": np.nanstd(matrix, axis=0) + 1e-9}
        rows = np.nan_to_num((matrix - known["mean"]) / known["scale"])
        weights, bias = np.zeros(rows.shape[1]), 0.0
        for _ in range(int(params.get("steps", 100))):
            gap = 1 / (1 + np.exp(-np.sum(rows * weights, axis=1) - bias)) - labels
            weights -= 0.5 * np.mean(rows * gap[:, None], axis=0)
            bias -= 0.5 * float(gap.mean())
        model = {**{name: values.tolist() for name, values in known.items()}, "weights": weights.tolist()}
        return json.dumps({**model, "bias": bias, "features": [one.name for one in features], "seed": seed})

    def load(self, text: str) -> Scorer:
        model = json.loads(text)
        mean, scale, weights = (np.array(model[name]) for name in ("mean", "scale", "weights"))

        def score(matrix: Floats) -> Floats:
            rows = np.nan_to_num((matrix - mean) / scale)
            scores: Floats = 1 / (1 + np.exp(-np.sum(rows * weights, axis=1) - model["bias"]))
            return scores

        return score


class Rereading:
    """LightGBM's, as good as any, but read anew from its text at each call, and checked."""

    def train(self, matrix: Floats, labels: Floats, **given: Any) -> str:
        import lightgbm

        settings = {
            **given["params"], "objective": "binary", "seed": given["seed"],
            "num_threads": given["threads"], "verbosity": -1,
        }  # fmt: skip
        trees = int(settings.pop("n_estimators"))
        categories = [at for at, one in enumerate(given["features"]) if one.kind == "category"]
        data = lightgbm.Dataset(matrix, labels, categorical_feature=categories, params=settings)
        return str(lightgbm.train(settings, data, num_boost_round=trees).model_to_string())

    def load(self, text: str) -> Scorer:
        import lightgbm

        def score(matrix: Floats) -> Floats:
            booster = lightgbm.Booster(model_str=text)
            if lightgbm.Booster(model_str=booster.model_to_string()).num_trees() != booster.num_trees():
                raise ValueError("it was not read as it was written")
            scores: Floats = booster.predict(matrix)
            return scores

        return score


class Nearest(Logistic):
    """Of numbers and categories: what rows with a like value of the first feature were, on average."""

    def train(self, matrix: Floats, labels: Floats, **settings: Any) -> str:
        edges = np.nanquantile(matrix[:, 0], [0.2, 0.4, 0.6, 0.8])
        bins = np.searchsorted(edges, np.nan_to_num(matrix[:, 0]))
        columns = labels[:, None]
        if settings["params"].get("classes"):
            columns = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
        means = [columns[bins == one].mean(axis=0).tolist() for one in range(5)]
        labels[:] = 0  # what it does to its copy is nobody's business
        return json.dumps({"edges": edges.tolist(), "means": means})

    def load(self, text: str) -> Scorer:
        model = json.loads(text)
        means = np.array(model["means"])

        def score(matrix: Floats) -> Floats:
            found: Floats = means[np.searchsorted(model["edges"], np.nan_to_num(matrix[:, 0]))]
            return found[:, 0] if found.shape[1] == 1 else found

        return score


class Unsure(Nearest):
    """Gives probabilities that do not add up to 1, or numbers that are none."""

    def load(self, text: str) -> Scorer:
        score = super().load(text)
        return lambda matrix: score(matrix) * (0.5 if score(matrix).ndim > 1 else np.inf)


class Forgetful(Logistic):
    """Another model each time."""

    def train(self, *args: Any, **settings: Any) -> str:
        return json.dumps({**json.loads(super().train(*args, **settings)), "made": os.urandom(8).hex()})


class Mute(Logistic):
    """Gives no text."""

    def train(self, *args: Any, **settings: Any) -> Any:
        return None


class Failing(Logistic):
    """Fails."""

    def train(self, *args: Any, **settings: Any) -> str:
        raise ValueError("no such luck")


class Unreadable(Logistic):
    """Cannot read what it wrote."""

    def load(self, text: str) -> Scorer:
        raise ValueError("what is this?")


class Odds(Logistic):
    """Scores by what is no probability."""

    def load(self, text: str) -> Scorer:
        score = super().load(text)
        return lambda matrix: 1 + score(matrix)


class Thrifty(Logistic):
    """Scores fewer rows than it is given."""

    def load(self, text: str) -> Scorer:
        score = super().load(text)
        return lambda matrix: score(matrix)[1:]


class Incomplete:
    """Has no `load`."""

    def train(self, *args: Any, **settings: Any) -> str:
        return "model"


class Needy(Logistic):
    """Is not made without arguments."""

    def __init__(self, what: str) -> None:
        self.what = what
