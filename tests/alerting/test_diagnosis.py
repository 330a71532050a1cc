"""From findings to causes, each with what follows from it."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.alerting.diagnosis import (
    EXPLAINS,
    KINDS,
    TRIAGE,
    Cause,
    Finding,
    common_sources,
    diagnose,
)

FEATURES = [f"feature:f{n}" for n in range(12)]


def finding(
    kind: str, subject: str = "", days: str = "10", parts: list[str] | None = None, severity: str = "warning"
) -> Finding:
    shown = tuple(f"2013-05-{day}" for day in days.split())
    return Finding(
        kind,
        subject,
        severity,
        f"{kind} {subject}",
        shown,
        "mlops health p",
        frozenset(parts or ()),  # type: ignore[arg-type]
    )


def told(*findings: Finding, known: list[Cause] | None = None) -> list[tuple[str, list[str]]]:
    """Causes by kind, each with the kinds of its symptoms."""
    return [
        (one.cause.kind, sorted(symptom.kind for symptom in one.symptoms))
        for one in diagnose(findings, known or [])
    ]


def test_a_schema_break_that_moves_twelve_features_is_one_incident() -> None:
    events = ["stream:events", "model", *FEATURES]
    assert told(
        finding("rejected_rows", "events", parts=events, severity="critical"),
        finding("inputs_broken", "events.carrier", parts=FEATURES),
        finding("stale_view", "labels", parts=["stream:labels", "feature:f1"]),
        finding("skew", "labels", parts=["feature:f1"]),
        finding("drift", days="10 11", parts=FEATURES[:3]),
        finding("score_drift", days="10 11"),
        finding("quality"),
        finding("slo", "quality"),
    ) == [
        (
            "rejected_rows",
            ["drift", "inputs_broken", "quality", "score_drift", "skew", "slo", "stale_view"],
        )
    ]


def test_what_touches_something_else_is_a_cause_of_its_own() -> None:
    assert told(
        finding("rejected_rows", "weather", parts=["stream:weather", "feature:f0"], severity="critical"),
        finding("inputs_broken", "events.carrier", parts=["feature:f5"]),
    ) == [("rejected_rows", []), ("inputs_broken", [])]


def test_what_showed_long_before_does_not_follow() -> None:
    cause = finding("inputs_broken", "events.x", days="20", parts=["feature:f0"])
    assert told(cause, finding("drift", days="10 11", parts=["feature:f0"])) == [
        ("inputs_broken", []),
        ("drift", []),
    ]
    assert told(cause, finding("drift", days="19 20", parts=["feature:f0"])) == [("inputs_broken", ["drift"])]


def test_what_still_shows_of_a_cause_that_is_over_is_not_told_again() -> None:
    over = Cause("inputs_broken", "events.x", frozenset({"feature:f0"}), "2013-05-10", "2013-05-12")
    lingering = finding("drift", days="12 13", parts=["feature:f0"])
    assert told(lingering, known=[over]) == []
    assert told(lingering, finding("score_drift", days="12 13"), known=[over]) == []
    assert told(finding("drift", days="12 14 15", parts=["feature:f0"]), known=[over]) == [("drift", [])]


def test_a_failed_backfill_or_an_old_refused_file_hides_nothing_that_is_new() -> None:
    quality = finding("quality", days="18 19", parts=["model"], severity="critical")
    for cause in (
        finding("run_failed", "backfill", days="01"),
        finding("run_failed", "retrain", days="18"),
        finding("stage_stopped", "monitors", days="19"),
        finding("refused_files", "events", days="01", parts=["stream:events", "model"]),
    ):
        assert ("quality", []) in told(cause, quality), cause.kind
    assert told(finding("run_failed", "score", days="19", parts=["model"]), quality) == [
        ("run_failed", ["quality"])
    ]


def test_the_worst_symptom_says_how_severe_an_incident_is() -> None:
    [one] = diagnose([
        finding("inputs_broken", "events.x", parts=["feature:f0"]),
        finding("quality", severity="critical"),
    ])  # fmt: skip
    assert (one.cause.kind, one.severity) == ("inputs_broken", "critical")


def test_an_slo_is_explained_by_name() -> None:
    labels = finding("labels_missing", parts=["stream:labels"], severity="critical")
    assert told(labels, finding("slo", "label_maturity"), finding("slo", "availability")) == [
        ("labels_missing", ["slo"]),
        ("slo", []),
    ]


def test_every_kind_has_a_triage_and_its_rules_have_no_circle() -> None:
    names = {f"slo:{name}" for name in ("freshness", "availability", "label_maturity", "quality")}
    assert {*TRIAGE} == {*KINDS} - {"slo"} | names | {"events_broken"}
    assert {*EXPLAINS} == {*KINDS} - {"slo"} | {"events_broken"}
    assert {effect for effects in EXPLAINS.values() for effect in effects} <= {*TRIAGE}
    order = [*TopologicalSorter({cause: [*effects] for cause, effects in EXPLAINS.items()}).static_order()]
    assert len(order) == len(TRIAGE)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_runbook(kind: str) -> None:
    page = Path(f"docs/runbooks/{kind}.md").read_text(encoding="utf-8")
    for heading in ("## What it means", "## What to look at", "## What helps"):
        assert heading in page


KIND = st.sampled_from(KINDS)
DAYS = st.lists(st.integers(1, 28), min_size=1, max_size=4, unique=True).map(sorted)


@st.composite
def findings(draw: st.DrawFn) -> list[Finding]:
    made = {}
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(KIND)
        names = (
            ("freshness", "availability", "label_maturity", "quality") if kind == "slo" else ("", "a", "b")
        )
        one = Finding(
            kind,
            draw(st.sampled_from(names)),
            draw(st.sampled_from(["info", "warning", "critical"])),
            kind,
            tuple(f"2013-05-{day:02}" for day in draw(DAYS)),
            "",
            frozenset(draw(st.lists(st.sampled_from(["feature:a", "feature:b", "stream:c"]), max_size=3))),
        )
        made[one.key] = one
    return [*made.values()]


@given(findings(), st.randoms(use_true_random=False))
def test_every_finding_is_told_whatever_the_order(found: list[Finding], random: object) -> None:
    told = diagnose(found)
    shuffled = sorted(found, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert diagnose(shuffled) == told
    named = {one.cause.key for one in told} | {symptom.key for one in told for symptom in one.symptoms}
    assert named == {one.key for one in found}
    causes = {one.cause.key for one in told}
    # A cause follows from none of the findings, and no symptom is a cause.
    for one in told:
        assert not any(other.cause.explains(one.cause) for other in found if other.key != one.cause.key)
        assert not causes & {symptom.key for symptom in one.symptoms}


def test_what_is_broken_is_put_down_to_its_common_source() -> None:
    made_of = {
        "a": frozenset({"events", "events.x"}),
        "b": frozenset({"events", "events.x", "events.y"}),
        "c": frozenset({"weather", "weather.t", "events.origin"}),
        "d": frozenset({"weather", "weather.u", "events.origin"}),
        "e": frozenset({"events", "events.origin"}),
        "f": frozenset({"events", "events.z"}),
    }

    def of(*broken: str) -> dict[str, list[str]]:
        whole = {name: sources for name, sources in made_of.items() if name not in broken}
        return common_sources({name: made_of[name] for name in broken}, whole)

    assert of("a", "b") == {"events.x": ["a", "b"]}
    assert of("c", "d") == {"weather": ["c", "d"]}
    assert of("c", "d", "e") == {"events.origin": ["c", "d", "e"]}
    assert of("a", "c") == {"events.x": ["a"], "weather.t": ["c"]}
    assert common_sources({"new": frozenset()}, made_of) == {"new": ["new"]}


def test_a_column_that_is_seen_to_be_whole_is_no_source_of_what_is_broken() -> None:
    """Labels that do not come empty short windows, and leave the carrier and long ones as they are."""
    of_view = frozenset({"labels", "labels.late", "events.carrier"})
    whole = {"carrier": frozenset({"events", "events.carrier"}), "30d": of_view}
    assert common_sources({"3h": of_view, "6h": of_view}, whole) == {"labels": ["3h", "6h"]}
    longer = {**whole, "60d": of_view, "90d": of_view}
    assert common_sources({"3h": of_view, "6h": of_view}, longer) == {"labels": ["3h", "6h"]}


def test_nothing_broken_has_no_source() -> None:
    made_of = {"a": frozenset({"events", "events.x"})}
    assert common_sources({}, made_of) == {}
