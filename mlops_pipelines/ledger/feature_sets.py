"""Feature sets: every definition a pipeline's vectors were made by, and which of them are in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.landing import Landing, reopen
from mlops_pipelines.ledger.store import insert_new
from mlops_pipelines.ledger.tables import feature_sets, promotions, retrains

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

# A set begins as new: its tiles are to be made for all that is known. Then it is in use, until it retires.
SetState = Literal["new", "in_use", "retired"]


@dataclass(frozen=True)
class KnownSet:
    """A feature set. version: 8 hex digits. definition: JSON, as `FeatureSet.to_json` writes it."""

    version: str
    definition: str
    state: SetState


@dataclass(frozen=True)
class Reign:
    """A champion's time. since: the home's clock, UTC. feature_set: version of the set it is fed by."""

    since: datetime
    feature_set: str


class FeatureSets(Landing):
    """Which feature sets vectors are made by."""

    def reigns(self, pipeline: str) -> list[Reign]:
        """Of all champions of a pipeline, in order."""
        query = (
            sa.select(promotions.c.at, retrains.c.feature_set)
            .join(retrains, retrains.c.id == promotions.c.retrain_id)
            .where(promotions.c.pipeline == pipeline)
            .order_by(promotions.c.sequence)
        )
        with self._reading() as connection:
            return [Reign(*row) for row in connection.execute(query).all()]

    def feature_sets(self, pipeline: str) -> list[KnownSet]:
        """All sets of a pipeline, in the order they were first used."""
        columns = feature_sets.c
        query = sa.select(columns.version, columns.definition, columns.state).where(
            columns.pipeline == pipeline
        )
        with self._reading() as connection:
            return [KnownSet(*row) for row in connection.execute(query.order_by(columns.seq)).all()]

    def use_feature_sets(
        self,
        pipeline: str,
        wanted: Iterable[str],
        definitions: Mapping[str, str],
        days: Sequence[str],
        at: datetime,
    ) -> list[str]:
        """Let vectors be made by the sets of these versions, and by no others; those that begin to be used.

        definitions: by version, of sets that may not be known yet. days: of the events there are: where a
        set begins they are reopened to be scored. at: the home's clock, UTC. One transaction. Raises
        TerminalError for a version that is neither known nor defined.
        """
        wanted = set(wanted)
        with self._writing() as connection:
            mine = feature_sets.c.pipeline == pipeline
            for version in sorted(wanted & set(definitions)):
                values = {"pipeline": pipeline, "version": version, "definition": definitions[version]}
                insert_new(connection, feature_sets, {**values, "state": "retired"})
            states = dict(
                connection.execute(sa.select(feature_sets.c.version, feature_sets.c.state).where(mine)).all()
            )
            if unknown := wanted - set(states):
                raise TerminalError(
                    f"The ledger knows no feature set {', '.join(sorted(unknown))} of {pipeline}."
                )
            begun = sorted(version for version in wanted if states[version] == "retired")
            over = [
                version for version, state in states.items() if state != "retired" and version not in wanted
            ]
            for versions, state in ((begun, "new"), (over, "retired")):
                connection.execute(
                    feature_sets.update()
                    .where(mine, feature_sets.c.version.in_(versions))
                    .values(state=state)
                )
            if begun:
                reopen(connection, pipeline, days, "score", at)
            return begun

    def record_tiles_made(self, pipeline: str, versions: Iterable[str]) -> None:
        """Record that new sets have the tiles of all that is known. Those that retired meanwhile stay so."""
        columns = feature_sets.c
        with self._writing() as connection:
            connection.execute(
                feature_sets.update()
                .where(
                    columns.pipeline == pipeline,
                    columns.version.in_(sorted(versions)),
                    columns.state == "new",
                )
                .values(state="in_use")
            )
