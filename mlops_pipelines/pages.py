"""Pages of a home, linked from Dagster's: the trace of any prediction, drawn when it is asked for."""

from __future__ import annotations

import html
import os
import threading
import time
from typing import TYPE_CHECKING

from mlops_pipelines.errors import MlopsError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from mlops_pipelines.home import PipelineHome

_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"}
_FORM = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Traces</title>'
    "<h1>Trace of a prediction</h1><p>{said}</p>"
    '<form action="/trace"><input name="id" placeholder="its id, 16 hex digits" size="24" autofocus>'
    "<button>Show</button></form></html>\n"
)


def app(places: Callable[[], Iterable[PipelineHome]]) -> Starlette:
    """`/` asks for an id, `/trace/ID` shows it, `/trace/ID.json` gives it to machines; nothing is written."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse
    from starlette.routing import Route

    from mlops_pipelines.trace import find_prediction, trace
    from mlops_pipelines.trace_page import as_page

    def ask(request: Request) -> Response:
        wanted = request.query_params.get("id", "").strip()
        if wanted:
            return RedirectResponse(f"/trace/{wanted}")
        return HTMLResponse(_FORM.format(said=""), headers=_HEADERS)

    def show(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            found = trace(find_prediction(places(), name.removesuffix(".json")))
        except MlopsError as error:
            status = 404 if isinstance(error, UserError) else 500
            if name.endswith(".json"):
                return JSONResponse({"error": str(error)}, status)
            return HTMLResponse(_FORM.format(said=html.escape(str(error))), status, headers=_HEADERS)
        if name.endswith(".json"):
            return JSONResponse(found)
        return HTMLResponse(as_page(found), headers=_HEADERS)

    return Starlette(routes=[Route("/", ask), Route("/trace", ask), Route("/trace/{name}", show)])


def serve(places: Callable[[], Iterable[PipelineHome]], port: int, *, with_parent: bool = False) -> None:
    """Serve the pages on this machine alone. with_parent: until the process that started this one ends."""
    import uvicorn

    if with_parent:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    uvicorn.run(app(places), host="127.0.0.1", port=port, log_level="error")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)
