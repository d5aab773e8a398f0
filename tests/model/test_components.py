"""Components that are no flows: mixture and training know only their protocol."""

import math

import numpy as np
import torch
from small_modules import seeded
from torch import nn

from skflowmix.model.mixture import MixtureModule
from skflowmix.model.nn import PosteriorNet
from skflowmix.model.pairs import AllPairs, Support
from skflowmix.training.batches import Batch, TableSource
from skflowmix.training.objectives import ElboObjective, Temperature
from skflowmix.training.optimizer import AdamW, FlatParameters
from skflowmix.training.trainer import Trainer, TrainingConfig


class Spheres(nn.Module):
    """K normal distributions with one standard deviation each."""

    architecture, n_flow_parameters = {}, 0

    def __init__(self, means):
        super().__init__()
        self.n_components, self.n_features = means.shape
        self.floats_per_row = means.numel()
        self.means = nn.Parameter(means)
        self.log_scales = nn.Parameter(means.new_zeros(len(means)))

    def log_prob(self, x, pairs, trains=False):
        shifts = pairs.spread(x.T) - self.means.unsqueeze(2)
        squares = shifts.square().sum(1) * (-2 * self.log_scales.unsqueeze(1)).exp()
        each = self.log_scales.unsqueeze(1) + 0.5 * math.log(2 * math.pi)
        return -0.5 * squares - self.n_features * each

    def log_prob_of_all(self, x):
        return self.log_prob(x, AllPairs(self.n_components)).T

    def log_prob_bounds(self, x):
        log_prob = self.log_prob_of_all(x)
        return log_prob, log_prob

    def gaussian_log_prob(self, x):
        return None

    def sample(self, component, generator):
        noise = torch.randn(
            len(component), self.n_features, generator=generator, dtype=torch.float64
        )
        scales = self.log_scales.exp()[component].unsqueeze(1)
        return self.means[component] + scales * noise

    def select_(self, index):
        self.n_components = len(index)
        self.means.data = self.means.data[index]
        self.log_scales.data = self.log_scales.data[index]

    def parameter_groups(self):
        return {"pooled": [], "decayed": [], "plain": [self.means, self.log_scales]}


CENTERS = torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 5.0]]).double()


def make_mixture():
    components = Spheres(CENTERS + 0.5)
    posterior = PosteriorNet(2, 3, (8,), generator=seeded())
    return MixtureModule(components, posterior, np.array([0.2, 0.3, 0.5]))


def test_a_mixture_of_them_is_that_of_torch():
    model = make_mixture()
    x = 3 * torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    normals = torch.distributions.Independent(
        torch.distributions.Normal(CENTERS + 0.5, 1.0), 1
    )
    weights = torch.distributions.Categorical(torch.tensor([0.2, 0.3, 0.5]).double())
    expected = torch.distributions.MixtureSameFamily(weights, normals).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), expected)
    chosen = torch.rand(20, 3, generator=seeded()) < 0.5
    support = Support(chosen)
    entries = support.scatter(model.training_log_prob(x, support), 20).T
    torch.testing.assert_close(entries, model.component_log_prob(x) * chosen)


def test_they_are_trained_like_flows():
    model = make_mixture()
    labels = torch.arange(900) % 3
    noise = torch.randn(900, 2, generator=seeded(1), dtype=torch.float64)
    x = CENTERS[labels] + 0.5 * noise
    table = Batch(x, x.new_ones(900), nn.functional.one_hot(labels).to(x))
    source = TableSource(table, 64, seeded())
    objective = ElboObjective(model, source, table, Temperature(1.0, 1e-3))
    flat = FlatParameters(model.parameter_groups(), [model.temperature])
    config = TrainingConfig(60, 0.05, patience=8, tol=1e-3)
    Trainer(objective, source, AdamW(flat), config).run()
    scales = model.components.log_scales.detach().exp()
    torch.testing.assert_close(scales, torch.full_like(scales, 0.5), rtol=0.1, atol=0)
    torch.testing.assert_close(
        model.components.means.detach(), CENTERS, rtol=0, atol=0.1
    )
    assert (model.predict(x) == labels).all()
    drawn = model.sample(torch.tensor([1, 1, 2]), seeded())
    assert (model.predict(drawn) == torch.tensor([1, 1, 2])).all()
    model.select_(torch.tensor([2, 0]))
    assert model.responsibilities(x).shape == (900, 2)
