"""Flows in groups, whose densities are sums over them."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from small_modules import make_model, rows

from skflowmix.model.groups import Groups

SIZES = [2, 1, 3]
PLACES = [(0, 1), (2,), (3, 4, 5)]


def test_flows_are_chosen_with_their_groups():
    groups = Groups(SIZES)
    assert_array_equal(groups.of_flow, [0, 0, 1, 2, 2, 2])
    chosen = groups.select(np.array([5, 3, 2, 1]))
    assert_array_equal(chosen.sizes, [2, 1, 1])
    assert [own.tolist() for own in groups.parts(np.arange(6))] == [
        list(own) for own in PLACES
    ]
    assert Groups.singles(3).are_single and not groups.are_single


@pytest.fixture(scope="module")
def model():
    return make_model(n_components=6, groups=Groups(SIZES))


def test_densities_and_shares_of_groups_are_sums(model):
    x = rows(100)
    with torch.no_grad():
        log_prob, weights = model.component_log_prob(x).numpy(), model.log_weights
        of_groups = model.group_log_prob(x).numpy()
        shares = model.responsibilities(x).numpy()
        q = model.posterior_proba(x).numpy()
        answers = model.label_bound_and_log_prob(x).numpy()
        log_joint = np.stack(
            [
                logsumexp(log_prob[:, own] + weights.numpy()[list(own)], axis=1)
                for own in PLACES
            ],
            axis=1,
        )
        log_weights = model.group_logsumexp(weights).numpy()
        assert_allclose(np.exp(log_weights).sum(), 1)
        assert_allclose(of_groups + log_weights, log_joint)
        assert_allclose(logsumexp(log_joint, axis=1), answers[:, 2])
        assert_array_equal(log_joint.argmax(1), answers[:, 0])
        assert_array_equal(log_joint.argmax(1), model.predict(x).numpy())
        for found, parts in (
            (model.group_responsibilities(x), shares),
            (model.group_posterior_proba(x), q),
        ):
            expected = np.stack([parts[:, own].sum(1) for own in PLACES], axis=1)
            assert_allclose(found.numpy(), expected)
        assert (answers[:, 1] <= answers[:, 2] + 1e-9).all()


def test_a_model_keeps_its_groups(model):
    again = type(model).from_spec(model.spec(), model.arrays())
    assert_array_equal(again.groups.sizes, SIZES)
    again.select_(torch.tensor([3, 4, 5, 0]))
    assert_array_equal(again.groups.sizes, [3, 1])
    with torch.no_grad():
        assert again.group_log_prob(rows(5)).shape == (5, 2)
