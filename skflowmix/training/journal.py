"""Journals, which run the phases of a fit; that of `checkpoints.py` writes files."""

from collections.abc import Callable
from typing import Any, Protocol

from skflowmix.training.trainer import Outcome, Trainer

__all__ = ["Journal", "NoJournal"]


class Journal(Protocol):
    """Runs the phases of a fit, whose keys and order are the same in every run."""

    def phase(
        self, key: str, trainer: Trainer, on_epoch: Callable[[dict[str, Any]], bool]
    ) -> Outcome:
        """Run a phase, read a finished one back, or continue an unfinished one."""
        ...


class NoJournal:
    """Runs every phase, and writes nothing."""

    def phase(
        self, key: str, trainer: Trainer, on_epoch: Callable[[dict[str, Any]], bool]
    ) -> Outcome:
        """See `Journal`."""
        return trainer.run(on_epoch)
