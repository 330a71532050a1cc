"""The end of a pipeline whose folder is gone: what it used of others' views is not made for it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_pipelines.errors import UserError
from mlops_pipelines.features.in_use import users_of
from mlops_pipelines.spec_loading import PIPELINES, pipeline_names
from mlops_pipelines.spec_wording import alternatives

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import Home


def retire(home: Home, pipeline: str, root: Path = PIPELINES) -> dict[str, list[str]]:
    """Record that a pipeline uses no feature set any more.

    By view of another pipeline, `OWNER:ID`, that it used: who uses it still; nobody where it is freed. {} if
    that was recorded before. Its tables stay, and should its folder come back, so does its use. Raises
    UserError for a pipeline that is still there below `root`, and for one that the home never knew.
    """
    if pipeline in pipeline_names(root):
        raise UserError(
            f"{pipeline} is still a pipeline of this project: its next tick would use its features again.",
            expected=f"a pipeline whose folder under {root} is gone",
            remedy="remove its folder and reload the code location, then repeat the command",
        )
    known = sorted({one.pipeline for one in home.ledger.feature_sets()})
    if pipeline not in known:
        raise UserError(
            f"{home.path} knows no features of {pipeline}{alternatives(pipeline, known)}.",
            expected="a pipeline that vectors were made for in this home",
            remedy="another --home DIR, or the name as it was",
        )
    used = {
        f"{owner}:{view}": [user for user in users if user != pipeline]
        for (owner, view), users in users_of(home.ledger).items()
        if pipeline in users and owner != pipeline
    }
    home.ledger.use_feature_sets(pipeline, (), {}, (), home.clock.now())
    return used
