"""Markdown as a page that stands alone: no network, no script of ours."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from mlops_pipelines.figures import as_markdown

if TYPE_CHECKING:
    from collections.abc import Mapping

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #30343b; max-width: 60rem; margin: 2rem auto }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #e3e6ea }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e3e6ea }
code { overflow-wrap: anywhere } img { max-width: 100% }
iframe { width: 100%; height: 60rem; border: 1px solid #e3e6ea }
"""


def page(
    title: str,
    markdown: str,
    pictures: Mapping[str, bytes] | None = None,
    framed: Mapping[str, str] | None = None,
) -> str:
    """HTML of a text. What stands in it as HTML is shown, not obeyed.

    pictures: PNG by name, below the text. framed: whole pages (HTML) by title, each in a frame of its own.
    """
    from markdown_it import MarkdownIt

    render = MarkdownIt("commonmark", {"html": False}).enable("table").render
    shown = [as_markdown(png, name) for name, png in (pictures or {}).items()]
    frames = [
        f'<h2>{html.escape(name)}</h2><iframe title="{html.escape(name)}" sandbox="allow-scripts" '
        f'srcdoc="{html.escape(whole)}"></iframe>'
        for name, whole in (framed or {}).items()
    ]
    body = render("\n\n".join([markdown, *shown]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>{body}{''.join(frames)}</html>\n"
    )
