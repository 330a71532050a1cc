"""The datasheet of a training set: what it holds, where it comes from, what it lacks.

Its sections are those of Gebru et al. 2018, "Datasheets for Datasets"; what stands in them is taken from the
rows, the lake, the ledger and the contract, never written by hand. `figures` gathers it for the manifest,
which is signed; `datasheet` writes it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_pipelines import markdown
from mlops_pipelines.clock import days_through
from mlops_pipelines.outcomes import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome

# A day with fewer than this share of the median day's examples is told as a gap.
_THIN = 0.5
_MOST_LISTED = 15


def figures(
    place: PipelineHome, rows: pa.Table, *, days: tuple[str, str], versions: Mapping[str, int]
) -> dict[str, Any]:
    """What a datasheet says beyond the manifest, as JSON.

    rows: as `training_rows` gives them. days: first and last of the window, YYYY-MM-DD. versions: of the
    tables it was made of. Sources and rejects are those that arrived since the first day.
    """
    first, last = days
    spec, contract = place.spec, place.contract
    counts = place.ledger.file_counts(place.name, since_day=first)
    return {
        "description": spec.description,
        "owners": list(spec.owners),
        "label": spec.labels.value,
        **_composition(rows),
        "events": sum(
            n
            for day, n in place.lake.row_counts("events", version=versions.get("events")).items()
            if first <= day <= last
        ),
        "sources": {
            stream: {
                "files": counts[stream].files,
                "rows": counts[stream].rows,
                "accepted": counts[stream].accepted,
                "quarantined": counts[stream].quarantined,
                "duplicates": counts[stream].duplicates,
                "refused files": counts[stream].rejected,
            }
            for stream in place.streams
            if stream in counts
        },
        "rejects": _rejects(place, first),
        "sensitive": {
            stream: sorted(columns)
            for stream in place.streams
            if (columns := contract.sensitive_columns(stream))
        },
        "gaps": _gaps(place, rows, first, last),
    }


def _composition(rows: pa.Table) -> dict[str, Any]:
    import numpy as np

    from mlops_pipelines.features.coding import microseconds

    delay = (microseconds(rows["label_known_at"]) - microseconds(rows["decision_time"])) / 3.6e9
    median, p95, most = (float(value) for value in np.quantile(delay, [0.5, 0.95, 1.0]))
    skipped = {"day", "event_id", "event_time", "decision_time", "view_versions", "label", "label_known_at"}
    features = [name for name in rows.column_names if name not in skipped]
    missing = {name: rows[name].null_count / rows.num_rows for name in features}
    return {
        **_outcomes(rows),
        "label_delay_hours": {
            "median": round(median, 2), "95th percentile": round(p95, 2), "longest": round(most, 2)
        },
        "features": len(features),
        "missing": {
            name: round(share, 6)
            for name, share in sorted(missing.items(), key=lambda one: (-one[1], one[0]))
            if share
        },
    }  # fmt: skip


def _outcomes(rows: pa.Table) -> dict[str, Any]:
    """What the labels are, and of each month its rows and the sum of its labels; of categories its rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels, kind = rows["label"], kind_of(rows["label"].type)
    by_month = (
        pa.table({"month": pc.utf8_slice_codeunits(rows["day"], 0, 7), "label": labels})
        .group_by("month")
        .aggregate([("label", "count"), *([] if kind == "category" else [("label", "sum")])])
        .sort_by("month")
        .to_pylist()
    )
    months = [[one["month"], one["label_count"], one.get("label_sum")] for one in by_month]
    if kind == "category":
        classes = {one["values"]: one["counts"] for one in pc.value_counts(labels).to_pylist()}
        return {"classes": dict(sorted(classes.items())), "months": months}
    if kind == "number":
        low, high = pc.min_max(labels).as_py().values()
        return {
            "number": {
                "mean": pc.mean(labels).as_py(),
                "std": pc.stddev(labels).as_py(),
                "low": low,
                "high": high,
            },
            "months": months,
        }
    return {"positive": int(pc.sum(labels).as_py()), "months": months}


def _rejects(place: PipelineHome, first: str) -> dict[str, dict[str, int]]:
    """How often each reason was given, by stream, of rows that arrived on a day or later."""
    import pyarrow.compute as pc

    from mlops_pipelines.ingest.quarantine import reason_counts

    if not place.lake.exists("quarantine"):
        return {}
    days = [day for day in place.lake.days("quarantine") if day >= first]
    rejected = place.lake.read("quarantine", columns=["stream", "reasons"], days=days)
    found = {}
    for stream in place.streams:
        counts = reason_counts(rejected.filter(pc.equal(rejected["stream"], stream)))
        if counts:
            found[stream] = counts
    return found


def _gaps(place: PipelineHome, rows: pa.Table, first: str, last: str) -> dict[str, list[str]]:
    """Days of the window, by what they lack. The window begins with the first day there is anything of."""
    import statistics
    from datetime import date

    import pyarrow.compute as pc

    per_day = {one["values"]: one["counts"] for one in pc.value_counts(rows["day"]).to_pylist()}
    first = max(first, min(per_day))
    wanted = days_through(date.fromisoformat(first), date.fromisoformat(last))
    usual = statistics.median(per_day.values())
    gaps = {
        "no labelled example": [day for day in wanted if day not in per_day],
        f"fewer than {_THIN:.0%} of a usual day's examples": [
            day for day in wanted if 0 < per_day.get(day, 0) < _THIN * usual
        ],
    }
    for name, reference in place.spec.references.items():
        if reference.time is not None:
            held = set(place.lake.days(name))
            gaps[f"no row of {name}"] = [day for day in wanted if day not in held]
    return {what: days for what, days in gaps.items() if days}


def datasheet(manifest: Mapping[str, Any]) -> str:
    """What a training set holds and what it was made of, as Markdown."""
    about = manifest["about"]
    sections = {
        "Motivation": _motivation(manifest, about),
        "Composition": _held(manifest, about),
        "Collection": _collection(manifest, about),
        "Labelling": _labelling(manifest, about),
        "Known gaps": _listed_gaps(about),
        "Uses": "To train and judge models of this pipeline on rows as they were known at their decision. "
        "Not for rows of another origin.",
        "Maintenance": _maintenance(manifest),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"# Training set {manifest['version']} of {manifest['pipeline']}\n\n{body}\n"


def _motivation(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    return _list(
        {
            "Question": about.get("description") or "not described",
            "Owners": ", ".join(about.get("owners", ())) or "none named",
            "Asked for": f"as of {manifest['created_at']}",
        }
    )


def _held(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    parts = manifest["parts"]
    rows = sum(part["rows"] for part in parts)
    facts = {
        "Rows": f"{rows:,} labelled examples of {len(parts)} days, {parts[0]['day']} to {parts[-1]['day']}",
        "Window": f"{manifest['window'][0]} to {manifest['window'][1]}",
    }
    if "features" in about:
        facts |= _held_outcomes(about, rows)
        facts["Features"] = f"{about['features']}"
        facts["Without a label"] = f"{about['events'] - rows:,} of {about['events']:,} events of these days"
        marked = [f"{stream}.{name}" for stream, names in about["sensitive"].items() for name in names]
        facts["Sensitive columns"] = ", ".join(marked) or "none is marked in the contract"
    tables = [_list(facts)]
    if about.get("months"):
        tables.append(_by_month(about))
    if about.get("missing"):
        shown = list(about["missing"].items())
        tables.append(
            markdown.table(("feature", "missing"), [(n, f"{share:.2%}") for n, share in shown[:_MOST_LISTED]])
        )
        if len(shown) > _MOST_LISTED:
            tables.append(f"{len(shown) - _MOST_LISTED} more lack a value somewhere.")
    elif "missing" in about:
        tables.append("No feature lacks a value.")
    return "\n\n".join(tables)


def _by_month(about: Mapping[str, Any]) -> str:
    if "classes" in about:
        return markdown.table(("month", "rows"), [(month, f"{n:,}") for month, n, _ in about["months"]])
    what, spelled = ("positive", ".1%") if "positive" in about else ("mean label", ".6g")
    return markdown.table(
        ("month", "rows", what),
        [(month, f"{n:,}", f"{total / n:{spelled}}") for month, n, total in about["months"]],
    )


def _held_outcomes(about: Mapping[str, Any], rows: int) -> dict[str, str]:
    if "number" in about:
        held = about["number"]
        return {
            "Labels": f"numbers from {held['low']:.6g} to {held['high']:.6g}, mean {held['mean']:.6g}, "
            f"standard deviation {held['std']:.4g}"
        }
    if "classes" in about:
        most = sorted(about["classes"].items(), key=lambda one: (-one[1], one[0]))
        told = ", ".join(f"{name} {n:,} ({n / rows:.1%})" for name, n in most[:_MOST_LISTED])
        more = f" and {len(most) - _MOST_LISTED} more" if len(most) > _MOST_LISTED else ""
        return {"Classes": f"{told}{more}"}
    positive = about["positive"]
    return {"Classes": f"{positive:,} positive ({positive / rows:.1%}), {rows - positive:,} negative"}


def _collection(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    told = []
    if about.get("sources"):
        heads = ("stream", *next(iter(about["sources"].values())))
        told.append(
            markdown.table(
                heads, [(s, *(f"{n:,}" for n in counts.values())) for s, counts in about["sources"].items()]
            )
        )
    if about.get("rejects"):
        rows = [
            (stream, reason, f"{n:,}")
            for stream, reasons in about["rejects"].items()
            for reason, n in reasons.items()
        ]
        told.append(markdown.table(("stream", "why rows were rejected", "times"), rows[:_MOST_LISTED]))
        if len(rows) > _MOST_LISTED:
            told.append(f"{len(rows) - _MOST_LISTED} more reasons were given.")
    told.append(
        markdown.table(
            ("made of", "version"),
            [
                *((f"table {name}", f"{version}") for name, version in manifest["tables"].items()),
                *((f"view {name}", version) for name, version in manifest["views"].items()),
                *((f"contract of {name}", ", ".join(ones)) for name, ones in manifest["contracts"].items()),
            ],
        )
    )
    return "\n\n".join(told)


def _labelling(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    facts = {"Matured through": manifest["matured_through"]}
    if "label_delay_hours" in about:
        delays = ", ".join(f"{what} {hours:,.1f} h" for what, hours in about["label_delay_hours"].items())
        facts["Label"] = (
            f"`{about['label']}`, as known at the end of the window; the latest correction counts"
        )
        facts["From decision to label"] = delays
    return _list(facts)


def _listed_gaps(about: Mapping[str, Any]) -> str:
    if "gaps" not in about:
        return ""
    lines = {what: f"{_days(days)}" for what, days in about["gaps"].items()}
    return _list(lines) if lines else "None: each day of the window has its examples and references."


def _maintenance(manifest: Mapping[str, Any]) -> str:
    commit = manifest["commit"]
    facts = {
        "Code": f"{commit['sha'][:12]}{' (with changes that are not committed)' * bool(commit['dirty'])}",
        "Dependencies": manifest["lock"][:12] if manifest["lock"] else "not locked",
    }
    if manifest.get("signature"):
        facts["Signed with the key"] = manifest["signature"]["key"]
    return _list(facts)


def _days(days: Sequence[str]) -> str:
    more = f" and {len(days) - _MOST_LISTED} more" if len(days) > _MOST_LISTED else ""
    return f"{len(days)} {'day' if len(days) == 1 else 'days'}: {', '.join(days[:_MOST_LISTED])}{more}"


def _list(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
