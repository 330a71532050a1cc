"""`mlops contract`: draft a contract, hold files against one, tell two versions apart."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import home_option, home_path, json_option
from mlops_pipelines.clock import WallClock
from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import MASKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from mlops_pipelines.errors import TerminalError
    from mlops_pipelines.ingest.checking import Checked, Rejected
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.ingest.judging import Judged
    from mlops_pipelines.ingest.landing import LandedTable
    from mlops_pipelines.spec import PipelineSpec
    from mlops_pipelines.spec_loading import LoadedSpec

FILE = click.Path(path_type=Path, dir_okay=False)
# Of a file's reasons for rejecting rows, so many are told, the most frequent first.
MOST_REASONS = 10
# Of a sample, unpacked: more says no more.
MOST_BYTES = 100 * 10**6


@click.group()
def contract() -> None:
    """What landed rows must satisfy: draft it, hold files against it, compare two versions."""


@contract.command()
@click.argument("file", type=FILE)
@click.option("--stream", default="events", show_default=True, help="events, labels or a reference's name.")
def infer(file: Path, stream: str) -> None:
    """Draft the rules of a stream from a sample FILE of at most 100MB, as YAML to go on from.

    \b
    Examples:
      mlops contract infer sample.parquet
      mlops contract infer weather.csv.gz --stream weather > contract.yaml
    """
    from mlops_pipelines.ingest.drafting import draft

    click.echo(draft(_sample(file), stream), nl=False)


@contract.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--contract", "path", type=FILE, help="Contract file; by default that of --pipeline.")
@click.option("--pipeline", help="Pipeline whose contract it is; by default the only one there is.")
@click.option("--stream", default="events", show_default=True, help="events, labels or a reference's name.")
@click.option("--strict", is_flag=True, help="Fail if a single row would be rejected.")
@json_option
def check(
    files: Sequence[Path],
    *,
    path: Path | None,
    pipeline: str | None,
    stream: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Whether FILES would be taken in: exit code 1 if one would be refused, for a producer's CI.

    A pipeline's partitions and lateness, and ids that repeat within FILES, are judged where the contract is
    a pipeline's, not with --contract. What landed before is not known. A file that is not there is told
    with the others, and the exit code is 2.

    \b
    Examples:
      mlops contract check out/*.parquet --pipeline flight_delays --strict
      mlops contract check labels.csv --stream labels --strict
      mlops contract check sample.jsonl --contract contract.yaml --json
    """
    rules, spec = _contract(path, pipeline, stream)
    found = _verdicts(files, rules, spec, stream)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for one in found:
            _print_verdict(one)
        more = "" if spec else "; --pipeline judges all but the last"
        click.echo(f"not judged: {', '.join(_not_judged(spec))}{more}")
    if not all(file.is_file() for file in files):
        sys.exit(2)
    if any(not one["accepted"] or (strict and one["rejected_rows"]) for one in found):
        sys.exit(1)


@contract.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--pipeline", help="Pipeline whose features, views, gates and models stand on the columns.")
@home_option
@json_option
def diff(old: Path, new: Path, pipeline: str | None, home: Path | None, as_json: bool) -> None:
    """What changed from the contract OLD to NEW and what it breaks: exit code 1 if anything.

    With --pipeline, what reads a changed column is named; and the champion, if the home has one.

    \b
    Examples:
      git show main:contract.yaml > old.yaml; mlops contract diff old.yaml contract.yaml
      mlops contract diff old.yaml contract.yaml --pipeline flight_delays --json
    """
    from mlops_pipelines.ingest.contract import load_contract
    from mlops_pipelines.ingest.contract_changes import changes

    before, after = load_contract(_there(old)), load_contract(_there(new))
    dependents = _dependents(_pipeline(pipeline), home) if pipeline else None
    found = changes(before, after, dependents)
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found], indent=2))
    else:
        for one in found:
            whom = [word for word, breaks in (("producers", one.breaks_producers),
                                              ("readers", one.breaks_readers)) if breaks]  # fmt: skip
            mark = f"breaks {' and '.join(whom)}" if whom else "compatible"
            place = ".".join(part for part in (one.stream, one.column) if part) or "every stream"
            click.echo(f"{mark:<28} {place}: {one.what}")
            for dependent in one.dependents:
                click.echo(f"{'':<28}   read by {dependent}")
        click.echo(f"{sum(one.is_breaking for one in found)} breaking of {len(found)} changes")
    if any(one.is_breaking for one in found):
        sys.exit(1)


def _dependents(loaded: LoadedSpec, home: Path | None) -> Callable[[str, Sequence[str]], Iterable[str]]:
    """What reads some columns of a stream; the champion too, where there is a home."""
    from mlops_pipelines.features.in_use import lent_views
    from mlops_pipelines.home import Home
    from mlops_pipelines.ingest.contract_changes import dependents_of, dependents_on, features_of
    from mlops_pipelines.retraining import champion_features

    version, features, views = "", set[str](), {view.id: view for view in loaded.shared}
    if home is not None or Home.is_at(home_path(None)):
        place = Home.open(home_path(home)).pipeline(loaded)
        version, features = champion_features(place)
        views |= {view.id: view for view in lent_views(place)}
    shared = [*views.values()]
    found = dependents_of(loaded.spec, loaded.contract, shared)

    def dependents(stream: str, columns: Sequence[str]) -> Iterator[str]:
        yield from dependents_on(found, stream, columns)
        read = features & set(features_of(loaded.spec, loaded.contract, stream, columns, shared))
        if read:
            yield f"champion, version {version} ({len(read)} features)"

    return dependents


def _there(file: Path) -> Path:
    if not file.is_file():
        raise UserError(f"There is no file {file}.")
    return file


def _sample(file: Path) -> LandedTable:
    from mlops_pipelines.ingest.landing import UnreadableFileError, read_file

    try:
        return read_file(_there(file), MOST_BYTES)
    except UnreadableFileError as error:
        # The bound is this command's own: there is no contract yet.
        raise UserError(str(error).replace(" (`file_size_halts` in the contract)", " of a sample")) from error


def _contract(path: Path | None, pipeline: str | None, stream: str) -> tuple[Contract, PipelineSpec | None]:
    """The contract, and the pipeline whose it is, unless it is a file's."""
    from mlops_pipelines.ingest.contract import load_contract

    if path and pipeline:
        raise UserError("Give --contract or --pipeline, not both.")
    if path:
        return load_contract(_there(path), alone=stream), None
    loaded = _pipeline(pipeline)
    return loaded.contract, loaded.spec


def _pipeline(name: str | None) -> LoadedSpec:
    from mlops_pipelines.spec_loading import find_specs, load_pipeline, load_spec

    if name:
        return load_pipeline(name)
    specs = find_specs()
    if len(specs) != 1:
        raise UserError(f"There are {len(specs)} pipelines.", expected="--pipeline NAME, or --contract FILE")
    return load_spec(specs[0])


def _verdicts(
    files: Sequence[Path], rules: Contract, spec: PipelineSpec | None, stream: str
) -> list[dict[str, Any]]:
    """What would become of the files, each once, in the order given."""
    from mlops_pipelines.ingest.checking import as_judged, check

    now, hidden = WallClock().now(), rules.sensitive_columns(stream)
    judged = {file: _judged(file, rules, stream, now) for file in files}
    kept = {file: one for file, one in judged.items() if not isinstance(one, str)}
    checked = check([*kept.values()], spec, stream, now) if spec else map(as_judged, kept.values())
    told = dict(zip(kept, checked, strict=True))
    return [
        {"file": str(file), **_verdict(told.get(file, one), hidden), "not_judged": _not_judged(spec)}
        for file, one in judged.items()
    ]


def _not_judged(spec: PipelineSpec | None) -> list[str]:
    ours = [] if spec else ["partitions", "lateness", "repeated ids"]
    return [*ours, "what landed before"]


def _judged(file: Path, rules: Contract, stream: str, now: datetime) -> Judged | str:
    """What the contract says of a file, or why the whole of it is refused."""
    from mlops_pipelines.ingest.judging import BadBatchError, judge
    from mlops_pipelines.ingest.landing import UnreadableFileError, read_file

    if not file.is_file():
        return f"There is no file {file}."
    try:
        table = read_file(file, rules.file_size_halts)
    except UnreadableFileError as error:
        return str(error)
    (judged,) = judge([table], rules, stream, landed_at=[now])
    return str(judged) if isinstance(judged, BadBatchError) else judged


def _verdict(one: Checked | TerminalError | Judged | str, hidden: frozenset[str]) -> dict[str, Any]:
    from mlops_pipelines.ingest.checking import Checked

    taken = one if isinstance(one, Checked) else Checked(0, ())
    return {
        "accepted": isinstance(one, Checked),
        "accepted_rows": taken.accepted,
        "rejected_rows": len(taken.rejected),
        "duplicate_rows": taken.duplicates,
        "reasons": _reasons(taken.rejected, hidden),
        "why": "" if isinstance(one, Checked) else str(one),
    }


def _reasons(rejected: Sequence[Rejected], hidden: frozenset[str]) -> list[dict[str, Any]]:
    """Why rows would be rejected, the most frequent reason first, each with its first row."""
    counts = Counter((one.column, one.rule) for _, reasons in rejected for one in reasons)
    first: dict[tuple[str | None, str], dict[str, Any]] = {}
    for row, reasons in rejected:
        for one in reasons:
            # What is said of a line that is no row may repeat anything.
            is_hidden = one.column in hidden or (one.column is None and bool(hidden))
            value = MASKED if is_hidden and one.value is not None else one.value
            first.setdefault((one.column, one.rule), {"first_row": row, "value": value})
    return [
        {"column": column, "rule": rule, "rows": rows, **first[column, rule]}
        for (column, rule), rows in counts.most_common()
    ]


def _print_verdict(one: dict[str, Any]) -> None:
    if not one["accepted"]:
        click.echo(f"refused   {one['why']}")
        return
    others = "".join(
        f", {one[f'{what}_rows']:,} {words}"
        for what, words in (("rejected", "rejected"), ("duplicate", "repeat others"))
        if one[f"{what}_rows"]
    )
    click.echo(f"accepted  {one['file']}: {one['accepted_rows']:,} rows{others}")
    for reason in one["reasons"][:MOST_REASONS]:
        value = "" if reason["value"] is None else f", such as {reason['value']!r}"
        name = f"{reason['column']} " if reason["column"] else ""
        click.echo(f"          {name}{reason['rule']} fails in {reason['rows']:,} rows, "
                   f"first in row {reason['first_row']}{value}")  # fmt: skip
    if len(one["reasons"]) > MOST_REASONS:
        click.echo(f"          and {len(one['reasons']) - MOST_REASONS} more reasons")
