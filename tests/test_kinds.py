"""The whole loop on labels of each kind: train, judge, promote, score, watch, measure, trace, reproduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.loop import check_reproduced, retrain
from tests.parcels import advance, new_place

if TYPE_CHECKING:
    from mlops_pipelines.home import PipelineHome

KINDS = ("number", "category")


@pytest.fixture(scope="module", params=KINDS)
def lived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    """A home with a champion that has scored two days whose labels are known."""
    place = new_place(tmp_path_factory.mktemp(request.param), request.param)
    advance(place, 10)
    outcome = retrain(place, "first")
    assert outcome.promotion is not None, outcome.sentence
    advance(place, 12)
    advance(place, 14)
    return place


def test_predictions_are_traced_and_made_again_bit_for_bit(lived: PipelineHome) -> None:
    check_reproduced(lived)
