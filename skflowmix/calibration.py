"""Calibration of class probabilities: temperature and shares, fitted to labels."""

from typing import Any

import numpy as np
import torch

from skflowmix.fitting import FittedMixture
from skflowmix.initialization import LabelStart
from skflowmix.model.groups import Groups
from skflowmix.starts.class_probabilities import ClassProbabilities
from skflowmix.starts.unlabelled import label_folds, weights_without_each

__all__ = ["Calibration"]


class Calibration:
    """Class probabilities fitted to labels, by cross-validation of the Gaussians.

    Labels are evaluated under Gaussians refitted without their rows and without what
    label propagation takes from them. The flows have been trained on these rows: what
    they gained there beyond their gain on held-out rows is subtracted from the
    log-density of the label's class.

    Parameters
    ----------
    groups : Groups
        The class of every component.
    start : LabelStart
        The start of the fit.
    """

    def __init__(self, groups: Groups, start: LabelStart):
        self.groups, self.start = groups, start
        self._folds: tuple[Any, list[tuple[np.ndarray, Any]]] | None = None

    def __call__(self, fitted: FittedMixture) -> ClassProbabilities:
        """Return calibrated probabilities, or uncalibrated ones without any folds."""
        log_weights = fitted.module.log_weights.detach().numpy()
        log_shares = self.groups.logsumexp(log_weights[None])[0]
        folds = self._folds_of(fitted) if self.groups.n_groups > 1 else []
        if not folds:
            return ClassProbabilities(1.0, log_shares)
        table, classes, parts = fitted.table, fitted.problem.classes, []
        assert classes is not None
        for own, gaussians in folds:
            model = fitted.module.with_gaussians(gaussians)
            with torch.no_grad():
                log_prob = model.component_log_prob(torch.from_numpy(table.x[own]))
                parts.append((log_prob + model.log_weights).numpy())
        judges = np.concatenate([own for own, _ in folds])
        log_prob = self.groups.logsumexp(np.concatenate(parts)) - log_shares
        finite = np.isfinite(log_prob).all(1)
        judges, log_prob = judges[finite], log_prob[finite]
        log_prob[np.arange(len(judges)), classes[judges]] -= fitted.candidate.optimism
        labelled = classes >= 0
        counts = np.bincount(classes[labelled], table.weights[labelled])
        return ClassProbabilities.fit(
            log_prob, classes[judges], table.weights[judges], counts / counts.sum()
        )

    def _folds_of(self, fitted: FittedMixture) -> list[tuple[np.ndarray, Any]]:
        """Refit once for all epochs of a start; a fit can have several starts."""
        gaussians = fitted.candidate.gaussians
        if self._folds is None or self._folds[0] is not gaussians:
            self._folds = gaussians, self._refit_without_folds(fitted)
        return self._folds[1]

    def _refit_without_folds(
        self, fitted: FittedMixture
    ) -> list[tuple[np.ndarray, Any]]:
        """Return pairs of a fold's labelled rows and Gaussians of all other rows."""
        gaussians, table = fitted.candidate.gaussians, fitted.table
        classes, folds = fitted.problem.classes, []
        assert classes is not None
        parts = label_folds(classes)
        weights = weights_without_each(table.x, table.weights, parts)
        for own, kept in zip(parts, weights, strict=True):
            others, hidden = np.flatnonzero(kept), np.flatnonzero(kept == 0)
            moments = table.without_far(self.start.without_labels(classes, hidden))
            refitted = gaussians.refit(table.x[others], kept[others], moments[others])
            # Without these rows a column may be constant, which reg_covar=0 allows.
            if refitted.are_positive_definite():
                folds.append((own, refitted))
        return folds
