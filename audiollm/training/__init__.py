"""Staged training: `run_recipe` trains the stages of a recipe, `dry_run` tells what it would do."""

from typing import Any

__all__ = ["dry_run", "run_recipe"]


def run_recipe(*args: Any, **kwargs: Any) -> Any:
    """See `audiollm.training.stages.run_recipe`; imported when called."""
    from audiollm.training.stages import run_recipe as run

    return run(*args, **kwargs)


def dry_run(*args: Any, **kwargs: Any) -> Any:
    """See `audiollm.training.rehearsal.dry_run`; imported when called."""
    from audiollm.training.rehearsal import dry_run as run

    return run(*args, **kwargs)
