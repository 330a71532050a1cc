"""Rows of a table once more from the landed files that they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError

if TYPE_CHECKING:
    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.ingest.landing import LandedTable


def events_again(place: PipelineHome, events: pa.Table) -> pa.Table:
    """The same events, each read again from its row of its landed file, as it was then taken in.

    events: rows of the table. They are read as the types of the contract, and not judged again: what stands
    in the table has passed the rules of its time. Raises TerminalError for a file that is gone, or whose
    bytes are others, or a row that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from mlops_pipelines.ingest.intake import FileOrigin, canonical_events
    from mlops_pipelines.ingest.judging import Judged, judge
    from mlops_pipelines.ingest.landing import read_file

    digests = events["file_digest"].unique().to_pylist()
    files = place.ledger.files_taken(place.name, "events", digests)
    made = []
    for digest in digests:
        if digest not in files:
            raise TerminalError(f"The ledger knows no file of events with SHA-256 {digest}.")
        file = files[digest]
        path = place.landing("events") / file.path
        try:
            landed = read_file(path)
        except FileNotFoundError as error:
            raise TerminalError(f"The landed file {path} is not there any more.") from error
        if landed.digest != digest:
            raise TerminalError(
                f"The landed file {path} has SHA-256 {landed.digest[:12]}.",
                expected=f"{digest[:12]}, as it was taken in",
            )
        [verdict] = judge([landed], _types_alone(place.contract, landed), "events")
        if not isinstance(verdict, Judged):
            raise TerminalError(f"The landed file {path} cannot be read again: {verdict.message}")
        rows = canonical_events(verdict.accepted, FileOrigin(digest, file.modified_at), place.spec)
        of_file = events.filter(pc.equal(events["file_digest"], digest))
        made.append(rows.filter(pc.is_in(rows["file_row"], value_set=of_file["file_row"].combine_chunks())))
    return pa.concat_tables(made, promote_options="default")


def _types_alone(contract: Contract, landed: LandedTable) -> Contract:
    """The contract with the types of the columns that a file has, and no other rule."""
    from mlops_pipelines.ingest.contract import ColumnRule

    rules = contract.events
    columns = {
        name: ColumnRule.model_validate({"type": rule.type, "nullable": True})
        for name, rule in rules.columns.items()
        if name in landed.table.column_names
    }
    alone = rules.model_copy(update={"columns": columns, "rows": {}, "file": None})
    return contract.model_copy(update={"events": alone, "reject_share_halts": 1.0})
