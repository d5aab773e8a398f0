"""Fitted attributes of a mixture, by name."""

import copy
from typing import Any

import numpy as np

from skflowmix._arrays import LockedSeeds
from skflowmix.fitting import FittedMixture
from skflowmix.model.mixture import MixtureModule
from skflowmix.online import OnlineState
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.preprocessing import Standardizer
from skflowmix.training.settings import ELBO

__all__ = ["attributes_of_fit", "attributes_of_model"]


def attributes_of_fit(fitted: FittedMixture) -> dict[str, Any]:
    """Return all attributes that follow from a fit."""
    candidate, standardizer = fitted.candidate, fitted.standardizer
    gaussians, n_counted = candidate.gaussians, fitted.table.n_counted
    elbo = [record for record in candidate.history if record["phase"] == ELBO]
    return {
        **attributes_of_model(fitted.module, gaussians, standardizer, n_counted),
        "n_components_path_": copy.deepcopy(fitted.table.path),
        **({} if fitted.labels is None else {"labels_": fitted.labels}),
        "converged_": candidate.converged,
        "n_iter_": len(elbo),
        "lower_bound_": fitted.lower_bound,
        "lower_bounds_": [record["elbo"] - standardizer.log_scale for record in elbo],
        "elbo_gap_": fitted.elbo_gap,
        "history_": copy.deepcopy(candidate.history),
        "_gaussians": gaussians,
        "_standardizer": standardizer,
        "_sample_seeds": LockedSeeds(fitted.sample_seed),
        "_online": OnlineState(n_counted),
    }


def attributes_of_model(
    module: MixtureModule,
    gaussians: Gaussians,
    standardizer: Standardizer,
    n_counted: float,
) -> dict[str, Any]:
    """Return the attributes that describe a model.

    Parameters
    ----------
    module : MixtureModule
        The model.
    gaussians : Gaussians
        The Gaussians that its flows whiten by.
    standardizer : Standardizer
        Location and scale of the columns.
    n_counted : float
        Number of rows that it was trained on.
    """
    groups, scale = module.groups, standardizer.scale
    of_flows, weights = module.flow_weights(), module.group_weights()
    components = gaussians.of_groups(groups, of_flows)
    # In one memory layout, since it affects hashes and pickling changes it.
    with np.errstate(over="ignore"):
        covariances, of_each = (
            np.ascontiguousarray(own.covariances * scale[:, None] * scale)
            for own in (components, gaussians)
        )
    means, means_of_each = (
        np.ascontiguousarray(standardizer.inverse_transform(own.means))
        for own in (components, gaussians)
    )
    return {
        "module_": module,
        "n_components_": len(weights),
        "n_components_in_use_": int(np.count_nonzero(weights * n_counted >= 1)),
        "weights_": weights,
        "means_": means,
        "covariances_": covariances,
        "n_flows_": len(of_flows),
        "flow_components_": groups.of_flow.copy(),
        "flow_weights_": of_flows,
        "flow_means_": means_of_each,
        "flow_covariances_": of_each,
    }
