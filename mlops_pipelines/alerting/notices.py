"""What people are told of an incident, and how that looks in a file, in a chat and in a mail.

Pure. `mlops_pipelines.alerting.sinks` sends it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from mlops_pipelines.alerting.diagnosis import Triage  # noqa: TC001 - pydantic reads the annotations
from mlops_pipelines.alerting.lifecycle import Event  # noqa: TC001 - as above
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.spec import Severity  # noqa: TC001 - pydantic reads the annotations of a notice

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from email.message import EmailMessage

    from pydantic import TypeAdapter

Scalar = str | int | float | bool | None

# What Slack takes of a message; one that has more of it is refused as a whole.
SLACK_HEADER = 150
SLACK_TEXT = 3000
SLACK_BLOCKS = 50
# Longer subjects are cut by whoever shows them.
_SUBJECT = 200
# From this length on a hidden value is found within words too.
_LONG = 4

_NUMBER = re.compile(r"(?<!\w)(?:(?P<day>\d{4}-\d{2}-\d{2})|[-+]?\d+(?:,\d+)*(?:\.\d+)?(?:[eE][-+]?\d+)?)")

# Entries of evidence that hold no value of a row, whatever they are about: names, days, counts and shares.
# All others are masked where they are about a sensitive column: what is not known here is not said.
_NO_VALUES = frozenset({
    "alarm", "asset", "at_least", "at_most", "bound", "champion", "check", "column", "columns", "count",
    "dataset", "day", "days", "detector", "events", "excess", "feature", "features", "files", "first_day",
    "importance", "index", "job", "kind", "labels", "last_day", "metric", "method", "missing", "model",
    "partition", "partitions", "persists", "pipeline", "psi", "retrain", "rows", "run", "set", "share",
    "shares", "since", "skew", "step", "stream", "table", "unexplained", "until", "version", "view", "views",
    "watch", "weight",
})  # fmt: skip


@dataclass(frozen=True)
class Notice:
    """What became of an incident, for people.

    incident: its id, such as flight_delays-i12. kind, subject: what is wrong, with what. triage: where to
    look first. title: a sentence. evidence: what it rests on, by name. symptoms: sentences on what follows
    from the same cause. remedy: a command. runbook: a path, docs/runbooks/KIND.md, or an address. at: UTC.

    A value of a column stands in a sentence only if it stands in the evidence too: there `masked` finds it.
    """

    pipeline: str
    incident: str
    event: Event
    kind: str
    subject: str
    severity: Severity
    triage: Triage
    title: str
    evidence: Mapping[str, Scalar | list[Scalar]]
    symptoms: tuple[str, ...]
    remedy: str
    runbook: str
    at: datetime

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    def __post_init__(self) -> None:
        if self.at.utcoffset() != timedelta(0):
            raise ValueError(f"{self.at.isoformat()} is not a time in UTC")

    def to_json(self) -> str:
        """The notice as JSON on one line, ASCII. A figure that is not finite is null."""
        told = {one.name: _sound(getattr(self, one.name)) for one in fields(self)}
        return json.dumps(told, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Notice:
        """The notice that `to_json` wrote. Raises TerminalError for any other text."""
        from pydantic import ValidationError

        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            places = {".".join(map(str, one["loc"])) or "the text" for one in error.errors(include_url=False)}
        # Not `from error`, which would repeat what is wrong, values and all.
        raise TerminalError(
            f"This is no notice: {', '.join(sorted(places))}.", expected="the text that Notice.to_json wrote"
        )


def masked(notice: Notice, sensitive: Collection[str]) -> Notice:
    """The notice without values of sensitive columns.

    sensitive: names of columns, and of features that are made of such (`lineage.hidden_names`). Where the
    evidence or a sentence names one of them, all entries of the evidence are masked that may hold a value,
    and what stood in them is masked in the sentences. Names stay.
    """
    if not _names(notice, sensitive):
        return notice
    evidence: dict[str, Scalar | list[Scalar]] = {}
    hidden: list[Scalar] = []
    for name, value in notice.evidence.items():
        if name in _NO_VALUES or value in (None, MASKED):
            evidence[name] = value
            continue
        evidence[name] = MASKED
        hidden += _many(value)
    exactly = _hiding(hidden)
    words = _hiding(one for one in hidden if not _is_number(one))
    # A number may stand there rounded.
    rounded = _without_numbers if any(map(_is_number, hidden)) else str

    def hide(text: str) -> str:
        return exactly(rounded(words(text)))

    return replace(
        notice,
        subject=hide(notice.subject),
        title=hide(notice.title),
        evidence=evidence,
        symptoms=tuple(map(hide, notice.symptoms)),
        remedy=exactly(notice.remedy),
    )


def subject_line(notice: Notice) -> str:
    """One line that says which pipeline, how bad, and what."""
    how = {"opened": notice.severity, "resolved": "resolved"}.get(
        notice.event, f"{notice.severity}, {notice.event}"
    )
    return _cut(f"[{how}] {_line(notice.pipeline)}: {_line(notice.title)}", _SUBJECT)


def as_text(notice: Notice) -> str:
    """The notice as plain text: what is wrong, what it rests on, what helps."""
    facts = list(_facts(notice))
    width = max((len(name) for name, _ in facts), default=0)
    parts = [
        f"{_line(notice.title)}\n{_standing(notice)}",
        _listed("It rests on:", (f"{name:<{width}}  {value}" for name, value in facts)),
        _listed("What follows from it:", map(_line, notice.symptoms)),
        f"Try: {_line(notice.remedy)}\nRunbook: {_line(notice.runbook)}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def as_slack(notice: Notice) -> dict[str, Any]:
    """The notice as the JSON that an incoming webhook of Slack takes, within its limits."""
    facts = "\n".join(f"{name}: {value}" for name, value in _facts(notice))
    symptoms = "\n".join(f"• {_line(one)}" for one in notice.symptoms)
    helps = f"Try: {_line(notice.remedy)}\nRunbook: {_line(notice.runbook)}"
    header = f"{_line(notice.pipeline)}: {_line(notice.kind)}, {notice.event}"
    return {
        "text": _escaped(subject_line(notice), SLACK_TEXT),
        "blocks": [
            {"type": "header", "text": _plain(header, SLACK_HEADER)},
            *(
                {"type": "section", "text": _plain(text, SLACK_TEXT)}
                for text in (_line(notice.title), facts, symptoms, helps)
                if text
            ),
            {"type": "context", "elements": [_plain(_standing(notice), SLACK_TEXT)]},
        ],
    }


def as_email(notice: Notice, sender: str, to: Iterable[str]) -> EmailMessage:
    """The notice as a mail, without a date. Mails of one incident are one conversation.

    sender, to: addresses.
    """
    from email.headerregistry import Address
    from email.message import EmailMessage

    message = EmailMessage()
    message["From"] = Address(addr_spec=sender)
    message["To"] = [Address(addr_spec=one) for one in to]
    message["Subject"] = subject_line(notice)
    host = Address(addr_spec=sender).domain
    incident = _name(notice.incident)
    # The same notice has the same id: who gets it twice is shown it once.
    message["Message-ID"] = f"<{incident}.{notice.event}.{notice.at:%Y%m%dT%H%M%S%f}@{host}>"
    message["References"] = f"<{incident}@{host}>"
    # Nobody's absence is answered by a further mail (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(as_text(notice), cte="quoted-printable")
    return message


# Masking


def _names(notice: Notice, sensitive: Collection[str]) -> bool:
    """Whether a name of these stands, as a word, in anything that the notice says."""
    if not sensitive:
        return False
    texts = [notice.kind, notice.subject, notice.title, notice.remedy, *notice.symptoms, *notice.evidence]
    texts += [one for value in notice.evidence.values() for one in _many(value) if isinstance(one, str)]
    words = "|".join(re.escape(name) for name in sensitive)
    found = re.compile(rf"(?<![A-Za-z0-9_])(?:{words})(?![A-Za-z0-9_])")
    return any(found.search(text) for text in texts)


def _many(value: Scalar | Sequence[Scalar]) -> Sequence[Scalar]:
    return value if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spellings(value: Scalar) -> set[str]:
    """How a value may stand in a sentence, but for a number that is rounded."""
    if value is None:
        return set()
    told = {str(value), repr(value), json.dumps(value), json.dumps(value, ensure_ascii=False)}
    if isinstance(value, str):
        told |= {" ".join(value.split()), _line(value)}
    return {one for one in told if one.strip()}


def _hiding(hidden: Iterable[Scalar]) -> Callable[[str], str]:
    """What masks these in a text: a short one where it stands as a word, others everywhere."""
    # Of two that begin alike the longer one first.
    words = sorted({one for value in hidden for one in _spellings(value)}, key=len, reverse=True)
    if not words:
        return str
    found = re.compile("|".join(map(_pattern, words)))
    return lambda text: found.sub(MASKED, text)


def _without_numbers(text: str) -> str:
    """A text whose numbers are masked; days stay, and digits in names."""
    return _NUMBER.sub(lambda found: found["day"] or MASKED, text)


def _pattern(word: str) -> str:
    if len(word) >= _LONG:
        return re.escape(word)
    before = r"(?<!\w)" if re.match(r"\w", word[0]) else ""
    after = r"(?!\w)" if re.match(r"\w", word[-1]) else ""
    return f"{before}{re.escape(word)}{after}"


# Rendering


def _standing(notice: Notice) -> str:
    return (
        f"{_line(notice.incident)} {notice.event} {notice.at:%Y-%m-%d %H:%M} UTC, {notice.severity}: "
        f"{_line(notice.kind)} of {_line(notice.subject)}, to be looked for in: {notice.triage}"
    )


def _facts(notice: Notice) -> Iterator[tuple[str, str]]:
    for name, value in notice.evidence.items():
        yield _line(name), ", ".join(map(_said, _many(value))) or "none"


def _said(value: Scalar) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else _line(str(value))


def _listed(head: str, lines: Iterable[str]) -> str:
    told = "\n".join(f"  {line}" for line in lines)
    return f"{head}\n{told}" if told else ""


def one_line(text: str) -> str:
    """A text on one line, without what no screen shows: no header and no further line comes of it."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _line(text: str) -> str:
    return one_line(text) or "–"


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _plain(text: str, most: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": _escaped(text, most), "emoji": False}


def _escaped(text: str, most: int) -> str:
    """A text as Slack takes it, with no more characters than it takes, and no escape cut in two."""
    escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    pieces = [escapes.get(one, one) for one in text]
    if sum(map(len, pieces)) <= most:
        return "".join(pieces)
    kept: list[str] = []
    room = most - 1
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return "".join(kept) + "…"


def _sound(value: Any) -> Any:
    """A value as JSON can hold it, whatever a file's name or a division has made of it."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_sound(one) for one in value]
    if isinstance(value, Mapping):
        return {_sound(name): _sound(one) for name, one in value.items()}
    return value


@cache
def _adapter() -> TypeAdapter[Notice]:
    from pydantic import TypeAdapter

    return TypeAdapter(Notice)
