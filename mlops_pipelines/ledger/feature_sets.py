"""Feature sets: every definition a pipeline's vectors were made by, which of them are in use, and which
tiles are kept for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.landing import Landing, reopen
from mlops_pipelines.ledger.store import insert_new
from mlops_pipelines.ledger.tables import feature_sets, kept_tiles, promotions, retrains

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

SetState = Literal["in_use", "retired"]


@dataclass(frozen=True)
class KnownSet:
    """A feature set. version: 8 hex digits. definition: JSON, as `FeatureSet.to_json` writes it."""

    pipeline: str
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

    def feature_sets(self, pipeline: str | None = None) -> list[KnownSet]:
        """All sets of a pipeline, or of every one, in the order they were first used."""
        columns = feature_sets.c
        query = sa.select(columns.pipeline, columns.version, columns.definition, columns.state)
        if pipeline is not None:
            query = query.where(columns.pipeline == pipeline)
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
            for versions, state in ((begun, "in_use"), (over, "retired")):
                connection.execute(
                    feature_sets.update()
                    .where(mine, feature_sets.c.version.in_(versions))
                    .values(state=state)
                )
            if begun:
                reopen(connection, pipeline, days, "score", at)
            return begun

    def kept_tiles(self, pipeline: str) -> frozenset[str]:
        """Ids of the views of a pipeline whose tiles are all there: `record_kept_tiles` said so last."""
        query = sa.select(kept_tiles.c.view).where(kept_tiles.c.pipeline == pipeline)
        with self._reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def record_kept_tiles(self, pipeline: str, views: Iterable[str]) -> None:
        """Record that the tiles of just these views are all there."""
        views = frozenset(views)
        if views == self.kept_tiles(pipeline):
            return
        with self._writing() as connection:
            connection.execute(kept_tiles.delete().where(kept_tiles.c.pipeline == pipeline))
            for view in sorted(views):
                connection.execute(kept_tiles.insert().values(pipeline=pipeline, view=view))
