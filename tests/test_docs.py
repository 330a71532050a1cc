"""What the documentation shows works: snippets run, commands parse, links lead somewhere.

A snippet that cannot run here says why in the line before it: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from mlops_pipelines.spec import Alerts, PipelineSpec, SharedViews, Training, TriedPolicy

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "mlops_pipelines/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
MAKE_INLINE = re.compile(r"`make ([a-z]+)")
SHELL = ("bash", "sh", "console")


@dataclass(frozen=True)
class Snippet:
    where: str
    language: str
    text: str


def snippets_of(text: str, where: str) -> list[Snippet]:
    return [
        Snippet(f"{where}:{text[: match.start('text')].count(chr(10))}", match["language"], match["text"])
        for match in FENCE.finditer(text)
        if match["skip"] is None
    ]


SNIPPETS = [
    snippet for page in PAGES for snippet in snippets_of(page.read_text(), page.relative_to(ROOT).as_posix())
]


def written_in(*languages: str) -> pytest.MarkDecorator:
    chosen = [snippet for snippet in SNIPPETS if snippet.language in languages]
    return pytest.mark.parametrize("snippet", chosen, ids=lambda snippet: snippet.where)


@written_in("python")
def test_python_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet.text, snippet.where, "exec"), {"__name__": "__main__"})  # noqa: S102 - our own pages


@written_in("yaml")
def test_yaml_is_what_it_seems(snippet: Snippet) -> None:
    for document in yaml.safe_load_all(snippet.text):
        if isinstance(document, dict) and document.get("type") == "mlops_pipelines.LearningLoop":
            PipelineSpec.model_validate(document["attributes"])
        if isinstance(document, dict) and set(document) == {"pipeline", "views"}:
            SharedViews.model_validate(document)
        if isinstance(document, dict) and set(document) == {"triggers", "policy"}:
            TriedPolicy.model_validate(document)
        if isinstance(document, dict) and set(document) == {"training"}:
            Training.model_validate(document["training"])
        if isinstance(document, dict) and set(document) == {"alerts"}:
            Alerts.model_validate(document["alerts"])


@written_in(*SHELL)
def test_commands_parse(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands_of(snippet):
        assert (problem := problem_of(words, monkeypatch)) is None, f"{shlex.join(words)}\n{problem}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    assert [name for name in MAKE_INLINE.findall(text) if name not in make_targets()] == []
    assert [link for link in map("".join, LINK.findall(text)) if not leads_somewhere(link, page)] == []


def commands_of(snippet: Snippet) -> list[list[str]]:
    """The simple commands of a shell snippet; `console` marks them with a `$`."""
    text = snippet.text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    if snippet.language == "console":
        lines = [line for line in lines if line.startswith("$ ")]
    found = []
    for line in lines:
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                found.append(words)
                words = []
            elif words or not re.fullmatch(r"[A-Z_]+=.*", word):  # not a setting before the command
                words.append(word)
    return [words for words in found if words]


def problem_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Why this command would be refused, or None. Commands of others are taken as they are."""
    program, *arguments = words
    name = program.rpartition("/")[2]
    if name == "make":
        unknown = {word for word in arguments if "=" not in word} - make_targets()
        return f"no such target: {', '.join(sorted(unknown))}" if unknown else None
    if name in ("mlops", "dagster", "dg"):
        return refusal(click_command(name), arguments, monkeypatch)
    if "/" in program and not program.startswith("/") and not (ROOT / program).exists():
        return "no such file"
    return None


def click_command(name: str) -> click.Command:
    """The click command behind a console script; Dagster's wrap theirs in a function."""
    (script,) = entry_points(group="console_scripts", name=name)
    main = script.load()
    command = main if isinstance(main, click.Command) else main.__globals__["cli"]
    assert isinstance(command, click.Command)
    return command


def refusal(command: click.Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Parse the arguments as the command itself would, without doing anything."""
    with monkeypatch.context() as patch:
        patch.setattr(click.Command, "invoke", lambda command, context: None)
        result = CliRunner().invoke(command, arguments)
    return None if result.exit_code == 0 else result.output or repr(result.exception)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def leads_somewhere(link: str, page: Path) -> bool:
    """Whether a link inside the repository has its file, and its heading; other addresses pass."""
    if re.match(r"[a-z]+:", link):
        return True
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    if not target.exists():
        return False
    return not heading or target.suffix != ".md" or heading in anchors_of(target.read_text())


def anchors_of(text: str) -> set[str]:
    """Anchors of the headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("line", "sound"),
    [
        ("mlops replay flight_delays --until 2013-03-31 --step 1d", True),
        ("MLOPS_HOME=/tmp/x .venv/bin/mlops status flight_delays --json | head", True),
        ("cd /tmp && mlops status flight_delays --jsn", False),
        ("mlops replay flight_delays", False),
        ("mlops replay flight_delays --until yesterday", False),
        ("mlops riplay flight_delays", False),
        ("make demo HOME_DIR=/tmp/x  # a home of its own", True),
        ("make test; make demmo", False),
        ("dagster asset materialize -m mlops_pipelines.definitions --select a --partition 2013-01-01", True),
        ("dagster asset materialise --select a", False),
        (".ci/run", True),
        (".ci/runs", False),
        ("git clone ADDRESS", True),
    ],
)
def test_a_wrong_command_is_told_from_a_right_one(
    line: str, sound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [problem_of(words, monkeypatch) for words in commands_of(Snippet("", "bash", line))]
    assert (set(problems) == {None}) is sound


def test_a_snippet_says_when_it_is_not_run() -> None:
    text = "<!-- not run: needs a day -->\n```python\n1 / 0\n```\n\n```python\nx = 1\n```\n"
    assert [(snippet.where, snippet.text) for snippet in snippets_of(text, "a.md")] == [("a.md:6", "x = 1\n")]


def test_a_dead_link_is_found() -> None:
    page = ROOT / "CONTRIBUTING.md"
    assert leads_somewhere("LICENSE", page)
    assert leads_somewhere("#set-up", page)
    assert not leads_somewhere("LICENCE", page)
    assert not leads_somewhere("#no-such-heading", page)
