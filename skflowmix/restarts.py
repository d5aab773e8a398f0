"""`fit_restarts`: several fits of one model, sequentially or in parallel."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

from joblib import wrap_non_picklable_objects
from joblib.parallel import get_active_backend
from sklearn.utils.parallel import Parallel, delayed

from skflowmix.training.runtime import Candidate

__all__ = ["fit_restarts"]


def _call(restart: Callable[[], Candidate]) -> Candidate:
    return restart()


def fit_restarts(
    restarts: Sequence[Callable[[], Candidate]],
    n_jobs: int | None,
    *,
    in_turn: bool = False,
) -> list[Candidate]:
    """Fit one model per restart, until a callback stops one.

    A joblib backend that returns all results at once also completes later restarts;
    they are discarded.

    Parameters
    ----------
    restarts : sequence of callable
        Each fits one model.
    n_jobs : int or None
        Number of restarts at a time, as in joblib.
    in_turn : bool, default=False
        Run them one after another in this process, whatever the joblib backend.

    Returns
    -------
    candidates : list of Candidate
        In the order of the restarts.
    """
    if in_turn or len(restarts) == 1:  # in this process, whatever the backend
        candidates = []
        for restart in restarts:
            candidates.append(restart())
            if candidates[-1].stopped:
                break
        return candidates
    backend = get_active_backend()[0]
    if type(backend).__name__ == "MultiprocessingBackend":
        # The standard library's pickle does not support nested functions.
        restarts = [
            partial(_call, wrap_non_picklable_objects(restart)) for restart in restarts
        ]
    # Not every joblib backend returns a result before all are done.
    as_done = backend.supports_return_generator
    trained = Parallel(n_jobs, return_as="generator" if as_done else "list")(
        delayed(restart)() for restart in restarts
    )
    candidates = []
    for candidate in trained:
        candidates.append(candidate)
        if candidate.stopped:
            break
    if as_done:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib's, about unfinished restarts
            trained.close()
    return candidates
