"""What is kept and what is freed, and why: pure.

Kept is what is younger than its retention, what serves, and all that something kept names: a prediction its
model and its vector, a vector the versions of the tables it was made of, their tiles the versions these were
made of, a model its training set, a training set the versions of the tables it is of, and those that its
vectors were made of. The newest version of a table is kept whole, but for the days that are older than their
retention.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    from mlops_pipelines.lake import StoredFile
    from mlops_pipelines.spec import PipelineSpec

# A table of a pipeline's lake: (pipeline, table).
Table: TypeAlias = tuple[str, str]
Kind = Literal[
    "predictions", "vectors", "online values", "reports", "models", "training sets", "parts", "table files",
    "landed",
]  # fmt: skip

REPORTS = ("drift_report", "performance_report", "feature_report", "feedback_report")
YOUNG, NEWEST = "younger than its retention", "of the newest version of its table"
OF_PREDICTION, OF_MODEL, OF_SET = (
    f"named by a kept {what}" for what in ("prediction", "model", "training set")
)
OF_VECTOR, OF_LEARNED, OF_TILE, OF_ONLINE = (
    "a vector that can be made again was made of it",
    "a vector of a kept training set was made of it",
    "tiles of such a vector were made of it",
    "what the online store holds was made of it",
)
LEARNED_FROM = "may be learned from"
WAITS, ALWAYS_KNOWN = "not taken in", "of a reference without time"
ROWS_NAMED = "has rows that a kept prediction may go back to"
IN_USE = "of a view that is in use"
FOR_GOOD = "no retention is set"


@dataclass(frozen=True)
class Horizons:
    """From when on things are kept for their age alone; None is for good. Days are YYYY-MM-DD, UTC.

    learned_from: first day of the vectors that the next retrain may learn from.
    """

    learned_from: str
    predictions: str | None = None
    reports: str | None = None
    landing: str | None = None
    models: datetime | None = None
    datasets: datetime | None = None

    @classmethod
    def of(cls, spec: PipelineSpec, now: datetime, training_as_of: datetime) -> Horizons:
        """As a pipeline declares them. now: the home's clock; training_as_of: that of a retrain in flight."""

        def day(kept: timedelta | None) -> str | None:
            return None if kept is None else (now - kept).date().isoformat()

        kept = spec.retention
        return cls(
            (training_as_of - spec.training.window).date().isoformat(),
            day(kept.predictions),
            day(kept.reports),
            day(kept.landing),
            None if kept.models is None else now - kept.models,
            None if kept.datasets is None else now - kept.datasets,
        )


@dataclass(frozen=True)
class Scores:
    """Predictions of one day by one model, whose vectors stand in a version of a table."""

    day: str
    model: str
    vectors: Table
    version: int
    rows: int


@dataclass(frozen=True)
class Vectors:
    """Vectors of one day in the newest version of their table, made of one version of each table.

    decided: the first of their decisions. None in made_of: there was no such table.
    """

    table: Table
    day: str
    decided: date
    made_of: Mapping[Table, int | None]
    rows: int


@dataclass(frozen=True)
class Model:
    """A registered version. at: the end of its retrain. serves: why it is kept whatever its age, or None."""

    version: str
    at: datetime
    dataset: str | None
    bytes: int = 0
    serves: str | None = None


@dataclass(frozen=True)
class TrainingSet:
    """at: the moment it was made as of. parts: bytes by file. serves: why it is kept whatever its age.

    made_of: versions of the tables that its vectors were made of.
    """

    version: str
    at: datetime
    tables: Mapping[Table, int]
    parts: Mapping[str, int] = field(default_factory=dict)
    serves: str | None = None
    made_of: frozenset[tuple[Table, int]] = frozenset()


@dataclass(frozen=True)
class Landed:
    """A landed file. last_row: latest day that a row of it belongs to, "" for none. waits: not taken in."""

    path: str
    digest: str
    day: str
    last_row: str
    bytes: int
    waits: bool = False


@dataclass(frozen=True)
class Online:
    """What the online store holds of a view. versions: of the tables that its values were made of."""

    view: str
    in_use: bool
    versions: tuple[tuple[Table, int], ...]


@dataclass(frozen=True)
class Things:
    """What a pipeline has in its home, and what names it.

    vectors: also those of other pipelines that were made of this one's tables; these are kept as they are.
    learned: versions of this pipeline's tables that vectors in training sets of other pipelines were made of.
    files: of this pipeline's tables. tile_sources: by tile table and its commit, the versions that commit's
    tiles were made of. reach: by tile table, how far back its windows reach. retired: tables of vectors by
    sets that are out of use. unused: tile tables of views that no set in use has. looks_back: how far before
    a decision the facts lie that any view may see.
    """

    pipeline: str
    scores: tuple[Scores, ...] = ()
    vectors: tuple[Vectors, ...] = ()
    models: tuple[Model, ...] = ()
    training_sets: tuple[TrainingSet, ...] = ()
    landed: tuple[Landed, ...] = ()
    files: Mapping[Table, tuple[StoredFile, ...]] = field(default_factory=dict)
    tile_sources: Mapping[Table, Mapping[int, Mapping[Table, int | None]]] = field(default_factory=dict)
    reach: Mapping[Table, timedelta] = field(default_factory=dict)
    retired: frozenset[Table] = frozenset()
    unused: frozenset[Table] = frozenset()
    online: tuple[Online, ...] = ()
    looks_back: timedelta = timedelta(0)
    learned: frozenset[tuple[Table, int]] = frozenset()


@dataclass(frozen=True)
class Judged:
    """One thing and why it is kept; None: it is freed. number: of its rows.

    name: of predictions and vectors their day, of reports table and day, of parts the file's SHA-256.
    """

    kind: Kind
    name: str
    kept: str | None
    bytes: int = 0
    number: int = 0


@dataclass(frozen=True)
class Plan:
    """What becomes of everything. cut: days that the next version of a table does not have any more.

    files: of tables, that are freed.
    """

    judged: tuple[Judged, ...]
    cut: Mapping[Table, tuple[str, ...]]
    files: tuple[StoredFile, ...]

    def freed(self, kind: Kind) -> tuple[str, ...]:
        """Names of what is freed of a kind, in order."""
        return tuple(one.name for one in self.judged if one.kind == kind and one.kept is None)


def decide(there: Things, since: Horizons) -> Plan:
    """What is kept and what is freed."""
    scores = [(one, _by_day(one.day, since.predictions)) for one in there.scores]
    kept_scores = [one for one, why in scores if why]
    vectors = [(one, _vectors_kept(one, there, since)) for one in there.vectors]
    remade = [one for one, why in vectors if why in (YOUNG, FOR_GOOD)]
    models = _models_kept(there, since, {one.model for one in kept_scores})
    sets = _sets_kept(there, since, {one.dataset for one in there.models if models[one.version]})
    cut = _cut(there, since, [one for one, why in vectors if not why], [one for one, why in vectors if why])
    kept_sets = [one for one in there.training_sets if sets[one.version]]
    pins = _Pins(there.files)
    for one in kept_scores:
        pins.add_day(one.vectors, one.version, one.day, OF_PREDICTION)
    pins.add((named for made in kept_sets for named in made.tables.items()), OF_SET)
    pins.add((named for one in there.online if one.in_use for named in one.versions), OF_ONLINE)
    pins.add((named for vectors in remade for named in vectors.made_of.items()), OF_VECTOR)
    pins.add((*there.learned, *(named for made in kept_sets for named in made.made_of)), OF_LEARNED)
    pins.add(_tile_sources(there, remade), OF_TILE)
    files = [
        (table, one, pins.why(table, one, cut.get(table, ())))
        for table in there.files
        for one in there.files[table]
    ]
    judged = [
        *(Judged("predictions", one.day, why, number=one.rows) for one, why in scores),
        *(
            Judged("vectors", f"{one.table[1]}/{one.day}", why, number=one.rows)
            for one, why in vectors
            if one.table[0] == there.pipeline
        ),
        *_reports(there, since),
        *(Judged("online values", one.view, IN_USE if one.in_use else None) for one in there.online),
        *(Judged("models", one.version, models[one.version], one.bytes) for one in there.models),
        *(Judged("training sets", one.version, sets[one.version]) for one in there.training_sets),
        *_parts(there.training_sets, kept_sets),
        *(Judged("table files", one.path.as_posix(), why, one.bytes) for _, one, why in files),
        *_landed(there, since, remade),
    ]
    freed = tuple(one for _, one, why in files if why is None)
    return Plan(tuple(judged), {table: tuple(sorted(days)) for table, days in cut.items()}, freed)


def summary(plan: Plan) -> dict[str, dict[str, Any]]:
    """By kind: `freed` and `kept` things, with their rows (predictions and vectors) and bytes, and `why` the
    kept ones are, by reason. Kinds of which there is nothing are left out."""
    by_kind: dict[str, list[Judged]] = {}
    for one in plan.judged:
        by_kind.setdefault(one.kind, []).append(one)
    return {
        kind: {
            "freed": _counted([one for one in ones if one.kept is None]),
            "kept": _counted([one for one in ones if one.kept is not None]),
            "why": {
                reason: _counted([one for one in ones if one.kept == reason])
                for reason in sorted({one.kept for one in ones if one.kept is not None})
            },
        }
        for kind, ones in by_kind.items()
    }


def _counted(ones: Sequence[Judged]) -> dict[str, int]:
    return {
        "things": len({one.name for one in ones}),
        "rows": sum(one.number for one in ones),
        "bytes": sum(one.bytes for one in ones),
    }


def as_text(plan: Plan) -> str:
    """The summary as a table: a line a kind, and below it a line for each reason to keep some of it."""
    lines = [f"{'number of':<16} {'freed':>8} {'MB':>10}   {'kept':>8} {'MB':>10}  why"]
    for kind, told in summary(plan).items():
        freed, kept = told["freed"], told["kept"]
        lines.append(
            f"{kind:<16} {freed['things']:>8,} {freed['bytes'] / 1e6:>10,.1f}   "
            f"{kept['things']:>8,} {kept['bytes'] / 1e6:>10,.1f}"
        )
        lines += [
            f"{'':<38}{count['things']:>8,} {count['bytes'] / 1e6:>10,.1f}  {why}"
            for why, count in told["why"].items()
        ]
    return "\n".join(lines) if lines[1:] else "There is nothing to free, and nothing to keep."


def _by_day(day: str, since: str | None) -> str | None:
    if since is None:
        return FOR_GOOD
    return YOUNG if day >= since else None


def _by_age(at: datetime, since: datetime | None) -> str | None:
    if since is None:
        return FOR_GOOD
    return YOUNG if at >= since else None


def _vectors_kept(one: Vectors, there: Things, since: Horizons) -> str | None:
    """Why vectors are kept. Those that are only learned from need nothing that they were made of."""
    if one.table[0] != there.pipeline:
        return FOR_GOOD
    why = _by_day(one.day, since.predictions)
    if why is None and one.day >= since.learned_from and one.table not in there.retired:
        return LEARNED_FROM
    return why


def _models_kept(there: Things, since: Horizons, scored: set[str]) -> dict[str, str | None]:
    return {
        one.version: one.serves or (OF_PREDICTION if one.version in scored else _by_age(one.at, since.models))
        for one in there.models
    }


def _sets_kept(there: Things, since: Horizons, learned: set[str | None]) -> dict[str, str | None]:
    return {
        one.version: one.serves or (OF_MODEL if one.version in learned else _by_age(one.at, since.datasets))
        for one in there.training_sets
    }


def _cut(
    there: Things, since: Horizons, freed: Iterable[Vectors], kept: Iterable[Vectors]
) -> dict[Table, set[str]]:
    """Days that leave the newest version of their table."""
    cut: defaultdict[Table, set[str]] = defaultdict(set)
    for vectors in freed:
        cut[vectors.table].add(vectors.day)
    for vectors in kept:
        cut[vectors.table].discard(vectors.day)
    cut[there.pipeline, "predictions"] = {
        one.day for one in there.scores if _by_day(one.day, since.predictions) is None
    }
    for table, day in _days_of_reports(there):
        if _by_day(day, since.reports) is None:
            cut[table].add(day)
    made_of = {table for vectors in kept for table in vectors.made_of}
    for table in there.unused - made_of:
        cut[table] |= {one.day for one in there.files.get(table, ()) if one.until is None}
    return {table: days for table, days in cut.items() if days}


def _days_of_reports(there: Things) -> Iterator[tuple[Table, str]]:
    for name in REPORTS:
        table = (there.pipeline, name)
        for file in there.files.get(table, ()):
            if file.until is None:
                yield table, file.day


def _reports(there: Things, since: Horizons) -> Iterator[Judged]:
    for (_, name), day in _days_of_reports(there):
        yield Judged("reports", f"{name}/{day}", _by_day(day, since.reports))


def _parts(every: Iterable[TrainingSet], kept: Iterable[TrainingSet]) -> Iterator[Judged]:
    needed = {part for one in kept for part in one.parts}
    sizes = {part: size for one in every for part, size in one.parts.items()}
    for part, size in sorted(sizes.items()):
        yield Judged("parts", part, OF_SET if part in needed else None, size)


def _tile_sources(there: Things, vectors: Iterable[Vectors]) -> set[tuple[Table, int | None]]:
    """Versions that the tiles which these vectors saw were made of."""
    seen: dict[tuple[Table, int], str] = {}
    for one in vectors:
        for table, version in one.made_of.items():
            if version is not None and table in there.tile_sources:
                first = (one.decided - there.reach.get(table, timedelta(0))).isoformat()
                seen[table, version] = min(seen.get((table, version), first), first)
    found: set[tuple[Table, int | None]] = set()
    for (table, version), first in seen.items():
        for file in there.files.get(table, ()):
            if _holds(file, version) and file.day >= first:
                found |= {*there.tile_sources[table].get(file.since, {}).items()}
    return found


def _landed(there: Things, since: Horizons, vectors: Iterable[Vectors]) -> Iterator[Judged]:
    back_to = ""
    if since.predictions is not None:
        seen = ((one.decided - there.looks_back).isoformat() for one in vectors)
        back_to = min((since.predictions, *seen))
    for one in there.landed:
        why = WAITS if one.waits else _by_day(one.day, since.landing)
        if why is None and one.last_row >= back_to and one.last_row:
            why = ROWS_NAMED
        yield Judged("landed", one.path, why, one.bytes)


def _holds(file: StoredFile, version: int) -> bool:
    return file.since <= version and (file.until is None or version < file.until)


class _Pins:
    """Versions of tables that something kept names: all of their days, or one. The first to name one tells
    why."""

    def __init__(self, files: Mapping[Table, object]) -> None:
        self._tables = set(files)
        self._whole: defaultdict[Table, dict[int, str]] = defaultdict(dict)
        self._days: defaultdict[tuple[Table, str], dict[int, str]] = defaultdict(dict)
        self._sorted: dict[Table, list[int]] = {}

    def add(self, named: Iterable[tuple[Table, int | None]], why: str) -> None:
        for table, version in named:
            if version is not None and table in self._tables:
                self._whole[table].setdefault(version, why)

    def add_day(self, table: Table, version: int, day: str, why: str) -> None:
        self._days[table, day].setdefault(version, why)

    def why(self, table: Table, file: StoredFile, cut: Iterable[str]) -> str | None:
        if file.until is None and file.since >= 0 and file.day not in cut:
            return NEWEST
        for version, why in self._days[table, file.day].items():
            if _holds(file, version):
                return why
        if table not in self._sorted:
            self._sorted[table] = sorted(self._whole[table])
        versions = self._sorted[table]
        place = bisect_left(versions, file.since)
        if file.since >= 0 and place < len(versions) and _holds(file, versions[place]):
            return self._whole[table][versions[place]]
        return None
