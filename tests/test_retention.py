"""What is freed is named by nothing that is kept, whatever names what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.lake import StoredFile
from mlops_pipelines.retention import (
    LEARNED_FROM,
    NEWEST,
    OF_MODEL,
    OF_PREDICTION,
    OF_VECTOR,
    Horizons,
    Kind,
    Landed,
    Model,
    Online,
    Plan,
    Scores,
    Things,
    TrainingSet,
    Vectors,
    as_text,
    decide,
    summary,
)

if TYPE_CHECKING:
    from mlops_pipelines.retention import Table

DAYS = [f"2013-01-{day:02}" for day in range(1, 11)]
EVENTS, SCORES, REPORT = (("p", name) for name in ("events", "predictions", "drift_report"))
TILES, VECTORS, OLD_VECTORS = (
    ("p", name) for name in ("feature_tiles/v__1", "examples/set_a", "examples/set_b")
)
TABLES = (EVENTS, TILES, VECTORS, OLD_VECTORS, REPORT, SCORES)
NOON = datetime(2013, 1, 10, 12, tzinfo=UTC)


@st.composite
def tables(draw: st.DrawFn, table: Table) -> tuple[StoredFile, ...]:
    """The files of a table after some commits, each of some days."""
    now: dict[str, StoredFile] = {}
    found = []
    commits = draw(st.lists(st.sets(st.sampled_from(DAYS), min_size=1), min_size=1, max_size=6))
    for version, days in enumerate(commits):
        for day in days:
            if day in now:
                found.append(replace(now.pop(day), until=version))
            path = Path(f"/{table[1]}/{day}/{version}")
            now[day] = StoredFile(path, day, 1, version, None)
    return (*found, *now.values())


def newest(files: tuple[StoredFile, ...]) -> int:
    return max([one.since for one in files] + [one.until or 0 for one in files])


@st.composite
def homes(draw: st.DrawFn) -> Things:
    files = {table: draw(tables(table)) for table in TABLES}
    versions = {table: st.integers(0, newest(files[table])) for table in TABLES}
    moments = st.integers(0, 9).map(lambda days: NOON - timedelta(days=days))
    sets = tuple(
        TrainingSet(
            f"s{at}",
            draw(moments),
            {table: draw(versions[table]) for table in (EVENTS, VECTORS)},
            dict.fromkeys(draw(st.sets(st.sampled_from("abcdef"), min_size=1)), 1),
            "newest" if at == 2 else None,
            frozenset(draw(st.sets(st.tuples(st.just(EVENTS), versions[EVENTS]), max_size=3))),
        )
        for at in range(3)
    )
    models = tuple(
        Model(f"m{at}", draw(moments), f"s{draw(st.integers(0, 2))}", 1, "champion" if at == 2 else None)
        for at in range(3)
    )
    vectors = tuple(
        Vectors(
            table, one.day, date.fromisoformat(one.day),
            {made_of: draw(versions[made_of]) for made_of in (EVENTS, TILES)}, 1,
        )
        for table in (VECTORS, OLD_VECTORS)
        for one in files[table]
        if one.until is None
    )  # fmt: skip
    scores = tuple(
        Scores(one.day, f"m{draw(st.integers(0, 2))}", table, draw(versions[table]), 1)
        for one in files[SCORES]
        if one.until is None
        for table in (draw(st.sampled_from((VECTORS, OLD_VECTORS))),)
    )
    commits = range(newest(files[TILES]) + 1)
    return Things(
        "p",
        scores,
        vectors,
        models,
        sets,
        tuple(Landed(f"f{at}", f"d{at}", draw(st.sampled_from(DAYS)), draw(st.sampled_from(["", *DAYS])), 1)
              for at in range(3)),
        files,
        {TILES: {commit: {EVENTS: draw(versions[EVENTS])} for commit in commits}},
        {TILES: timedelta(days=draw(st.integers(0, 5)))},
        frozenset({OLD_VECTORS}) if draw(st.booleans()) else frozenset(),
        frozenset({TILES}) if draw(st.booleans()) else frozenset(),
        tuple(Online(f"v{at}", at > 0, ((EVENTS, draw(versions[EVENTS])),)) for at in range(2)),
        timedelta(days=draw(st.integers(0, 5))),
        frozenset(draw(st.sets(st.tuples(st.just(TILES), versions[TILES]), max_size=2))),
    )  # fmt: skip


@st.composite
def horizons(draw: st.DrawFn) -> Horizons:
    ages = st.none() | st.integers(0, 9).map(lambda days: NOON - timedelta(days=days))

    def day() -> str | None:
        moment = draw(ages)
        return None if moment is None else moment.date().isoformat()

    return Horizons(draw(st.sampled_from(DAYS)), day(), day(), day(), draw(ages), draw(ages))


def alive(there: Things, table: Table, version: int, day: str | None = None) -> set[Path]:
    """Files of a version of a table, of all days or one."""
    return {
        one.path
        for one in there.files[table]
        if one.since <= version and (one.until is None or version < one.until) and day in (None, one.day)
    }


def applied(there: Things, plan: Plan) -> Things:
    """What is there once the plan was carried out."""
    gone = {*plan.files}
    kinds: tuple[Kind, ...] = ("predictions", "models", "training sets", "landed")
    freed = {kind: {*plan.freed(kind)} for kind in kinds}
    files = {
        table: tuple(
            replace(one, until=newest(of) + 1)
            if not one.until and one.day in plan.cut.get(table, ())
            else one
            for one in of
            if one not in gone
        )
        for table, of in there.files.items()
    }
    return replace(
        there,
        files=files,
        scores=tuple(one for one in there.scores if one.day not in freed["predictions"]),
        vectors=tuple(one for one in there.vectors if one.day not in plan.cut.get(one.table, ())),
        models=tuple(one for one in there.models if one.version not in freed["models"]),
        training_sets=tuple(one for one in there.training_sets if one.version not in freed["training sets"]),
        online=tuple(one for one in there.online if one.in_use),
        landed=tuple(one for one in there.landed if one.path not in freed["landed"]),
    )


def freed_names(plan: Plan) -> set[tuple[str, str]]:
    return {(one.kind, one.name) for one in plan.judged if one.kept is None}


def named(there: Things, since: Horizons, gone: set[tuple[str, str]]) -> set[Path]:
    """Files that something kept names, itself or through something else."""
    found: set[Path] = set()
    for score in there.scores:
        if ("predictions", score.day) not in gone:
            found |= alive(there, score.vectors, score.version, score.day)
    for vector in there.vectors:
        if vector.day >= (since.predictions or ""):
            for table, version in vector.made_of.items():
                found |= alive(there, table, version or 0)
            seen = (vector.decided - there.reach[TILES]).isoformat()
            tiles = alive(there, TILES, vector.made_of[TILES] or 0)
            for tile in there.files[TILES]:
                if tile.path in tiles and tile.day >= seen:
                    for table, version in there.tile_sources[TILES][tile.since].items():
                        found |= alive(there, table, version or 0)
    for made in there.training_sets:
        if ("training sets", made.version) not in gone:
            of_it = (*made.tables.items(), *made.made_of)
            found |= {path for table, version in of_it for path in alive(there, table, version)}
    found |= {path for table, version in there.learned for path in alive(there, table, version)}
    noted = [named for one in there.online if one.in_use for named in one.versions]
    return found | {path for table, version in noted for path in alive(there, table, version)}


@pytest.mark.proof
@given(homes(), horizons())
def test_nothing_that_something_kept_names_is_freed(there: Things, since: Horizons) -> None:
    plan = decide(there, since)
    freed, gone = {one.path for one in plan.files}, freed_names(plan)
    assert not freed & named(there, since, gone)
    for score in there.scores:
        assert ("predictions", score.day) in gone or ("models", score.model) not in gone
    for model in there.models:
        assert ("models", model.version) in gone or ("training sets", model.dataset) not in gone
    for made in there.training_sets:
        assert ("training sets", made.version) in gone or not gone & {("parts", part) for part in made.parts}
    for vector in there.vectors:
        if vector.day >= (since.predictions or ""):
            assert vector.day not in plan.cut.get(vector.table, ())
    for table, of in there.files.items():
        cut = plan.cut.get(table, ())
        assert not {one.path for one in of if one.until is None and one.day not in cut} & freed
    assert {("models", "m2"), ("training sets", "s2")}.isdisjoint(gone)


@pytest.mark.proof
@given(homes(), horizons())
def test_freeing_twice_frees_nothing_more(there: Things, since: Horizons) -> None:
    plan = decide(there, since)
    again = decide(applied(there, plan), since)
    assert freed_names(again) == set()
    assert (again.files, dict(again.cut)) == ((), {})


@pytest.mark.proof
@given(homes(), horizons(), horizons())
def test_a_longer_retention_frees_no_more(there: Things, one: Horizons, other: Horizons) -> None:
    names = ("predictions", "reports", "landing", "models", "datasets")
    ends = {name: (getattr(one, name), getattr(other, name)) for name in names}
    longer = {name: None if None in both else min(both) for name, both in ends.items()}
    longest = Horizons(min(one.learned_from, other.learned_from), **longer)
    assert freed_names(decide(there, longest)) <= freed_names(decide(there, one))


def stored(table: Table, *versions: tuple[str, int, int | None]) -> tuple[StoredFile, ...]:
    return tuple(
        StoredFile(Path(f"/{table[1]}/{day}/{since}"), day, 10, since, until)
        for day, since, until in versions
    )


def test_by_default_only_what_nothing_can_read_is_freed() -> None:
    there = Things(
        "p",
        scores=(Scores(DAYS[0], "m", VECTORS, 0, 5),),
        vectors=(Vectors(VECTORS, DAYS[0], date(2013, 1, 1), {EVENTS: 2}, 5),),
        files={
            EVENTS: stored(EVENTS, (DAYS[0], 0, 1), (DAYS[0], 1, 2), (DAYS[0], 2, 3), (DAYS[0], 3, None)),
            VECTORS: stored(VECTORS, (DAYS[0], 0, None)),
        },
    )
    plan = decide(there, Horizons(DAYS[0]))
    assert [one.since for one in plan.files] == [0, 1]
    assert summary(plan)["table files"]["freed"] == {"things": 2, "rows": 0, "bytes": 20}
    assert summary(plan)["table files"]["why"].keys() == {NEWEST, OF_VECTOR}
    assert "of the newest version of its table" in as_text(plan)


def test_vectors_that_are_learned_from_stay_without_what_they_were_made_of() -> None:
    there = Things(
        "p",
        scores=(Scores(DAYS[0], "old", VECTORS, 0, 5),),
        vectors=(Vectors(VECTORS, DAYS[0], date(2013, 1, 1), {EVENTS: 0}, 5),),
        models=(Model("old", NOON - timedelta(days=9), "s"),),
        training_sets=(TrainingSet("s", NOON - timedelta(days=9), {EVENTS: 1}),),
        files={
            EVENTS: stored(EVENTS, (DAYS[0], 0, 1), (DAYS[0], 1, 2), (DAYS[0], 2, None)),
            VECTORS: stored(VECTORS, (DAYS[0], 0, None)),
        },
    )
    plan = decide(there, Horizons(DAYS[0], predictions=DAYS[5]))
    assert plan.cut == {SCORES: (DAYS[0],)}
    assert [one.since for one in plan.files] == [0]
    assert summary(plan)["vectors"]["why"].keys() == {LEARNED_FROM}
    later = Horizons(DAYS[2], predictions=DAYS[5], models=NOON, datasets=NOON)
    plan = decide(there, later)
    assert plan.cut == {SCORES: (DAYS[0],), VECTORS: (DAYS[0],)}
    assert (plan.freed("models"), plan.freed("training sets")) == (("old",), ("s",))
    assert len(plan.files) == 3


def test_what_serves_stays_with_all_that_it_learned_from() -> None:
    there = Things(
        "p",
        scores=(Scores(DAYS[9], "scored", VECTORS, 0, 5),),
        models=tuple(Model(name, NOON - timedelta(days=9), name, serves=why)
                     for name, why in {"champion": "the champion", "scored": None, "old": None}.items()),
        training_sets=tuple(
            TrainingSet(name, NOON - timedelta(days=9), {}) for name in ("champion", "scored", "old")
        ),
    )  # fmt: skip
    plan = decide(there, Horizons(DAYS[0], models=NOON, datasets=NOON, predictions=DAYS[9]))
    assert (plan.freed("models"), plan.freed("training sets")) == (("old",), ("old",))
    kept = {one.name: one.kept for one in plan.judged if one.kind == "models"}
    assert kept == {"champion": "the champion", "scored": OF_PREDICTION, "old": None}
    assert summary(plan)["training sets"]["why"][OF_MODEL]["things"] == 2


def test_a_landed_file_goes_once_no_kept_prediction_can_go_back_to_it() -> None:
    files = {
        "old": Landed("old", "1", DAYS[0], DAYS[0], 1),
        "named": Landed("named", "2", DAYS[0], DAYS[6], 1),
        "static": Landed("static", "3", DAYS[0], "static", 1),
        "waiting": Landed("waiting", "4", DAYS[0], "", 1, waits=True),
        "empty": Landed("empty", "5", DAYS[0], "", 1),
        "young": Landed("young", "6", DAYS[9], DAYS[0], 1),
    }
    there = Things("p", landed=(*files.values(),))
    plan = decide(there, Horizons(DAYS[0], predictions=DAYS[5], landing=DAYS[5]))
    assert plan.freed("landed") == ("old", "empty")
    # All predictions are kept: so is whatever has a row.
    assert decide(there, Horizons(DAYS[0], landing=DAYS[5])).freed("landed") == ("empty",)
