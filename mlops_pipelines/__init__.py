"""mlops_pipelines keeps machine-learning models fresh and safe without a person watching."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlops_pipelines.component import LearningLoop

__all__ = ["LearningLoop"]


def __getattr__(name: str) -> Any:
    # LearningLoop needs Dagster (1.5 s to import); the library and the command line do not.
    if name == "LearningLoop":
        from mlops_pipelines.component import LearningLoop

        return LearningLoop
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # `dg` finds component types by looking through dir(): the lazy one has to be listed.
    return [*globals(), *__all__]
