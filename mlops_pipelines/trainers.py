"""Trainers of one's own: what learns in LightGBM's place, named by `training.trainer`.

A model is text, and its content is that text: what scoring needs has to stand in it. Nothing is pickled.
"""

from __future__ import annotations

import ast
import hashlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.outcomes import BINARY
from mlops_pipelines.spec_wording import alternatives

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlops_pipelines.features.views import FeatureColumn
    from mlops_pipelines.outcomes import Outcome
    from mlops_pipelines.spec import Kind

    Floats = NDArray[np.float64]
    Scorer = Callable[[Floats], Floats]


_EXPECTED: Mapping[Kind, str] = {
    "binary": "one number from 0 to 1 a row",
    "number": "one finite number a row",
    "category": "a probability of each class for each row, adding up to 1",
}
# How far a row's probabilities may be from adding up to 1.
_NEARLY_ONE = 1e-6


class Trainer(Protocol):
    """A class that is made without arguments, `training.trainer: package.module:Class`.

    The same rows, parameters, seed and threads have to give the same text on one platform: each model is
    trained twice, and one whose texts differ is marked as not reproducible. The same text has to score the
    same row alike in any process, alone or among others. Models that serve are read by the class as its
    file says today: write a changed trainer as another class.
    """

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
        """A model of the rows, as text.

        matrix: float64, shape (rows, features), ordered by decision time and event; NaN where a value is
        missing. A feature of kind `category` has whole numbers: the position of its value among those seen.
        labels: float64, shape (rows,): 0 or 1; of numbers the numbers; of categories the position of each
        one's class among those seen, sorted. features: name and kind of each column. params:
        `training.params`.
        """

    def load(self, text: str) -> Scorer:
        """What scores by a model's text a matrix of rows as above.

        Probabilities of 1, shape (rows,); of numbers the numbers; of categories the probability of each
        class, shape (rows, classes), which add up to 1.
        NaN also stands for a category that was not seen in training.
        """


def problem_of(trainer: str) -> str | None:
    """Why `module:Class` cannot be a trainer, or None; the packages around the module are imported.

    In words that go on from the place that names it.
    """
    module, _, name = trainer.partition(":")
    try:
        path = _file_of(module)
    except Exception as error:  # a package around it is the user's own code
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    if path is None:
        return f"there is no module {module} with a .py file"
    try:
        classes = [node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path} is no Python that can be read: {error}"
    if name not in classes:
        return f"{module} ({path}) has no class {name}{alternatives(name, classes)}"
    return None


def source_hash(trainer: str) -> str | None:
    """SHA-256 of the file of a trainer; None if it has none any more."""
    path = None if problem_of(trainer) else _file_of(trainer.partition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None


def text_of(
    trainer: str,
    matrix: Floats,
    labels: Floats,
    features: Sequence[FeatureColumn],
    params: Mapping[str, str | int | float | bool],
) -> str:
    """The text of the model that a trainer makes.

    params: with `seed` and `num_threads`. Raises TerminalError for a trainer that is not there, fails, or
    gives no text.
    """
    own = {name: value for name, value in params.items() if name not in ("seed", "num_threads")}
    made = _made(trainer)
    try:
        text = made.train(
            matrix,
            labels.copy(),  # which, unlike Arrow's memory, it may write into
            features=tuple(features),
            params=own,
            seed=int(params["seed"]),
            threads=int(params["num_threads"]),
        )
    except Exception as error:  # the user's own code may fail in any way
        raise TerminalError(f"The trainer {trainer} failed: {type(error).__name__}: {error}") from error
    if not isinstance(text, str) or not text:
        raise TerminalError(
            f"The trainer {trainer} gave {type(text).__name__ if text != '' else 'an empty text'}.",
            expected="the model as text",
        )
    return text


def scorer_of(trainer: str, text: str, outcome: Outcome = BINARY) -> Scorer:
    """What scores by a model's text; its scores are checked to be what the outcome asks for.

    Raises TerminalError, then or when it scores, for a trainer that is not there, fails, or gives others.
    """
    import numpy as np

    made = _made(trainer)
    try:
        scorer = made.load(text)
    except Exception as error:  # the user's own code may fail in any way
        raise TerminalError(
            f"The trainer {trainer} cannot read its model: {type(error).__name__}: {error}"
        ) from error

    def checked(matrix: Floats) -> Floats:
        try:
            scores = np.asarray(scorer(matrix), dtype=np.float64)
        except Exception as error:  # the user's own code may fail in any way
            raise TerminalError(
                f"A model of {trainer} failed to score: {type(error).__name__}: {error}"
            ) from error
        if scores.shape != (len(matrix), *outcome.shape) or not _are_of(outcome, scores):
            raise TerminalError(
                f"A model of {trainer} gave scores of shape {scores.shape} for {len(matrix)} rows, or some "
                f"that are no {'finite numbers' if outcome.kind == 'number' else 'probabilities'}.",
                expected=_EXPECTED[outcome.kind],
            )
        return scores

    return checked


def _are_of(outcome: Outcome, scores: Floats) -> bool:
    """Whether they are numbers of the kind that is asked for, their shape aside."""
    import numpy as np

    if outcome.kind == "number":
        return bool(np.isfinite(scores).all())
    if not ((scores >= 0) & (scores <= 1)).all():
        return False
    return outcome.kind == "binary" or bool((np.abs(scores.sum(axis=1) - 1) <= _NEARLY_ONE).all())


def _file_of(module: str) -> Path | None:
    try:
        found = find_spec(module)
    except (ModuleNotFoundError, ValueError):  # of the package that would hold it; a module without a spec
        return None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def _made(trainer: str) -> Trainer:
    module, _, name = trainer.partition(":")
    if problem := problem_of(trainer):
        raise TerminalError(
            f"The trainer {trainer} is not there: {problem}.",
            expected="the class that training.trainer, or the model that serves, names",
        )
    try:
        made: Any = getattr(import_module(module), name)()
    except Exception as error:  # the user's own code may fail in any way
        raise TerminalError(
            f"The trainer {trainer} cannot be made: {type(error).__name__}: {error}"
        ) from error
    lacking = [method for method in ("train", "load") if not callable(getattr(made, method, None))]
    if lacking:
        raise TerminalError(
            f"The trainer {trainer} has no {' and no '.join(lacking)}.",
            expected="the methods of mlops_pipelines.trainers.Trainer",
        )
    trained: Trainer = made
    return trained
