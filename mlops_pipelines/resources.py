"""Dagster resources over the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from mlops_pipelines.home import open_home
from mlops_pipelines.settings import settings

if TYPE_CHECKING:
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.spec_loading import LoadedSpec


class HomeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The home that assets and sensors work in; by default the one of the settings."""

    path: str | None = None

    def pipeline(self, loaded: LoadedSpec) -> PipelineHome:
        """The pipeline's place in this home. Raises UserError if the home is missing."""
        folder = Path(self.path) if self.path else settings().home
        return open_home(folder.absolute()).pipeline(loaded)
