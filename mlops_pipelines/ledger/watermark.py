"""The home's clock: on a replayed home a watermark, moved by write-ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.store import Store, insert_new
from mlops_pipelines.ledger.tables import home_clock
from mlops_pipelines.policy import format_moment

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.ledger.store import AnyRow


class Watermark(Store):
    """A replay records where it goes, lands what belongs there, then moves the watermark."""

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

    def begin_advance(self, to: datetime) -> None:
        """Record that the watermark is about to move to `to` (UTC). Beginning the same again changes nothing.

        Raises TerminalError if `to` lies before the watermark, or another advance is not finished.
        """
        with self._writing() as connection:
            clock = _clock(connection)
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
            connection.execute(home_clock.update().values(target=to))

    def finish_advance(self) -> None:
        """Move the watermark to the target; nothing to do if no advance was begun."""
        with self._writing() as connection:
            target = _clock(connection).target
            if target is not None:
                connection.execute(home_clock.update().values(watermark=target, target=None))

    def raise_watermark(self, to: datetime) -> bool:
        """Move the watermark of a replayed home forward to `to` (UTC). Whether it moved.

        It stays on a home that the wall clock rules, and where `to` is not later.
        """
        with self._writing() as connection:
            watermark = _clock(connection).watermark
            if watermark is None or to <= watermark:
                return False
            connection.execute(home_clock.update().values(watermark=to))
            return True


def _clock(connection: Connection) -> AnyRow:
    """The clock's row, locked."""
    insert_new(connection, home_clock, {"id": 1})
    return connection.execute(sa.select(home_clock.c.watermark, home_clock.c.target).with_for_update()).one()
