"""The ledger: SQL tables of landed files, triggers, retrains, verdicts, promotions and their records.

Facts are appended once, under keys made of content; a call that was interrupted can be repeated. What
several durable steps depend on is one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_pipelines.ledger.approvals import Approval, Approvals, Wait
from mlops_pipelines.ledger.feature_sets import FeatureSets, KnownSet, Reign
from mlops_pipelines.ledger.freed import Freed, FreedThings
from mlops_pipelines.ledger.incidents import Delivery, Incidents, Look
from mlops_pipelines.ledger.landing import FileCounts, FileFact, LandedFile
from mlops_pipelines.ledger.made_days import MadeDay, MadeDays
from mlops_pipelines.ledger.promotions import (
    FrozenError,
    Promotion,
    PromotionConflictError,
    PromotionKind,
)
from mlops_pipelines.ledger.retrains import (
    MAX_LOSSES,
    RETRAIN_STATUSES,
    Admitted,
    Held,
    Retrain,
    RetrainStatus,
    StaleTokenError,
)
from mlops_pipelines.ledger.tables import promotions, retrains, triggers
from mlops_pipelines.ledger.triggers import (
    ABOUT_CHAMPION,
    TRIGGER_STATUSES,
    Seen,
    Trigger,
    Triggers,
    TriggerStatus,
)
from mlops_pipelines.ledger.verdicts import RecordedVerdict
from mlops_pipelines.ledger.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ABOUT_CHAMPION",
    "MAX_LOSSES",
    "Admitted",
    "Approval",
    "Counts",
    "Delivery",
    "FileCounts",
    "FileFact",
    "Freed",
    "FrozenError",
    "Held",
    "KnownSet",
    "LandedFile",
    "Ledger",
    "Look",
    "MadeDay",
    "Promotion",
    "PromotionConflictError",
    "PromotionKind",
    "RecordedVerdict",
    "Reign",
    "Retrain",
    "Seen",
    "StaleTokenError",
    "Trigger",
    "Wait",
]


@dataclass(frozen=True)
class Counts:
    """How many retrains and triggers are in each status, and how many promotions there were."""

    retrains: Mapping[RetrainStatus, int]
    triggers: Mapping[TriggerStatus, int]
    promotions: int


class Ledger(Watermark, FeatureSets, MadeDays, Triggers, Approvals, FreedThings, Incidents):
    """The ledger of one home. Safe to use from several threads and processes at once."""

    def counts(self, pipeline: str) -> Counts:
        """How many rows of each kind a pipeline has."""
        with self._reading() as connection:
            by_retrain = connection.execute(
                sa.select(retrains.c.status, sa.func.count())
                .where(retrains.c.pipeline == pipeline)
                .group_by(retrains.c.status)
            ).all()
            by_trigger = connection.execute(
                sa.select(triggers.c.status, sa.func.count())
                .where(triggers.c.pipeline == pipeline)
                .group_by(triggers.c.status)
            ).all()
            promoted = connection.execute(
                sa.select(sa.func.count()).where(promotions.c.pipeline == pipeline)
            ).scalar_one()
        return Counts(
            retrains={**dict.fromkeys(RETRAIN_STATUSES, 0), **dict(by_retrain)},
            triggers={**dict.fromkeys(TRIGGER_STATUSES, 0), **dict(by_trigger)},
            promotions=promoted,
        )
