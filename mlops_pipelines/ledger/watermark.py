"""The home's clock: on a replayed home a watermark, moved by write-ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_pipelines.clock import WallClock
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.store import Store, insert_new
from mlops_pipelines.ledger.tables import home_clock, landed_files
from mlops_pipelines.policy import format_moment

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.ledger.store import AnyRow


class Watermark(Store):
    """A replay records where it goes, lands what belongs there, then moves the watermark.

    The clock is that of one pipeline's replay; nothing another pipeline does moves it.
    """

    def watermark(self) -> datetime | None:
        """The home's time on a replayed home, UTC; None where the wall clock rules."""
        with self._reading() as connection:
            watermark: datetime | None = connection.execute(
                sa.select(home_clock.c.watermark)
            ).scalar_one_or_none()
            return watermark

    def target(self) -> datetime | None:
        """Where an advance that was begun and not finished goes, UTC; None if there is none."""
        with self._reading() as connection:
            target: datetime | None = connection.execute(sa.select(home_clock.c.target)).scalar_one_or_none()
            return target

    def clock_owner(self) -> str | None:
        """The pipeline whose replay moves the watermark; None where there is none, or nobody knows."""
        with self._reading() as connection:
            owner: str | None = connection.execute(sa.select(home_clock.c.pipeline)).scalar_one_or_none()
            return owner

    def has_landed_files(self) -> bool:
        """Whether a file of any pipeline was ever registered."""
        with self._reading() as connection:
            return connection.execute(sa.select(landed_files.c.id).limit(1)).first() is not None

    def begin_advance(self, to: datetime, pipeline: str | None = None) -> None:
        """Record that the watermark is about to move to `to` (UTC). Beginning the same again changes nothing.

        pipeline: whose replay it is from now on; None leaves that as it is.
        Raises TerminalError if `to` lies before the watermark, another advance is not finished, or the
        clock is that of another pipeline.
        """
        with self._writing() as connection:
            clock = _clock(connection)
            if not _may_move(clock, pipeline):
                raise TerminalError(f"The clock is that of {clock.pipeline}'s replay, not of {pipeline}'s.")
            if clock.watermark is not None and to < clock.watermark:
                raise TerminalError(
                    f"The watermark stands at {format_moment(clock.watermark)} and cannot go back to "
                    f"{format_moment(to)}."
                )
            if clock.target not in (None, to):
                raise TerminalError(
                    f"An advance of the watermark to {format_moment(clock.target)} is not finished.",
                    remedy="run the same replay again; it finishes that advance first",
                )
            connection.execute(home_clock.update().values(target=to, pipeline=pipeline or clock.pipeline))

    def finish_advance(self) -> None:
        """Move the watermark to the target; nothing to do if no advance was begun."""
        with self._writing() as connection:
            target = _clock(connection).target
            if target is not None:
                connection.execute(home_clock.update().values(watermark=target, target=None))

    def raise_watermark(self, to: datetime, pipeline: str | None = None) -> bool:
        """Move the watermark of a replayed home forward to `to` (UTC). Whether it moved.

        It stays on a home that the wall clock rules, where it is that of another pipeline's replay, and where
        `to` is not later or lies in the machine's future: a mistyped year would hold the home there for good.
        pipeline: which took in what came; None is whoever owns the clock.
        """
        if to > WallClock().now():
            return False
        with self._writing() as connection:
            clock = _clock(connection)
            if clock.watermark is None or to <= clock.watermark or not _may_move(clock, pipeline):
                return False
            connection.execute(home_clock.update().values(watermark=to))
            return True


def _clock(connection: Connection) -> AnyRow:
    """The clock's row, locked."""
    insert_new(connection, home_clock, {"id": 1})
    return connection.execute(sa.select(home_clock).with_for_update()).one()


def _may_move(clock: AnyRow, pipeline: str | None) -> bool:
    return pipeline is None or clock.pipeline in (None, pipeline)
