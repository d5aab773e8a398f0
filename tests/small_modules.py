"""Mixtures of small flows with random parameters, and rows for them."""

import numpy as np
import torch

from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.gaussians import Gaussians


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_gaussians(n_components, n_features, seed=0, turned=False, spread=1.0):
    """Weights from 1:1 to 1:K, means within some deviations, full covariances."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1.0, n_components + 1)
    means = spread * rng.normal(size=(n_components, n_features))
    factors = 0.3 * rng.normal(size=(n_components, n_features, n_features))
    covariances = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(n_features)
    axes = np.linalg.eigh(covariances)[1].transpose(0, 2, 1)[:, ::-1].copy()
    return Gaussians(
        weights / weights.sum(), means, covariances, axes if turned else None
    )


def make_model(
    flow="nsf-ar",
    n_components=3,
    n_features=2,
    n_transforms=3,
    size=0.2,
    seed=0,
    spread=1.0,
    **sharing,
):
    """A mixture whose flows and q are perturbed by noise of the given size."""
    model = MixtureModule.of_flows(
        random_gaussians(
            n_components,
            n_features,
            seed,
            turned="n_shared_transforms" in sharing,
            spread=spread,
        ),
        flow=flow,
        n_transforms=n_transforms,
        hidden_units=(16,),
        posterior_units=(16,),
        generator=seeded(seed),
        **sharing,
    )
    generator = seeded(seed + 1)
    for name, parameter in model.named_parameters():
        if name == "weight_logits":
            continue
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += size * noise
    return model


def flow_parameters(model):
    """Parameters with K as their first axis, in a model that shares none."""
    named = model.named_parameters()
    return [p for name, p in named if not name.startswith(("posterior", "weight_"))]


def rows(n_rows, n_features=2, size=2.0, seed=5):
    shape = (n_rows, n_features)
    return size * torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
