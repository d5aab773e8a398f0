"""Restarts and searches on dask's workers, and scores of dask arrays."""

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.model_selection import GridSearchCV
from small_models import assert_same_answers, moons, small

da = pytest.importorskip("dask.array")
dask_distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def workers():
    """Two threads of this process, without sockets."""
    with (
        dask_distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
        ) as cluster,
        dask_distributed.Client(cluster),
    ):
        yield


@pytest.mark.slow
def test_restarts_and_searches(workers):
    model = small(2, init_params="random", n_init=3)
    expected = model.fit(moons())
    grid = {"n_components": [1, 2]}
    scores = GridSearchCV(small(), grid, cv=2).fit(moons()).cv_results_
    with joblib.parallel_config("dask"):
        found = small(2, init_params="random", n_init=3, n_jobs=2).fit(moons())
        search = GridSearchCV(small(), grid, cv=2).fit(moons())
    assert_same_answers(found, expected, moons())
    assert_array_equal(search.cv_results_["mean_test_score"], scores["mean_test_score"])


def test_blocks_are_scored_one_by_one():
    model = small(2).fit(moons())
    blocks = da.from_array(moons(), chunks=(40, 2))
    scores = blocks.map_blocks(model.score_samples, dtype=np.float64, drop_axis=1)
    assert_allclose(scores.compute(), model.score_samples(moons()), rtol=1e-12)
    proba = blocks.map_blocks(model.predict_proba, dtype=np.float64, chunks=(40, 2))
    assert_allclose(proba.compute(), model.predict_proba(moons()), rtol=1e-12)
    with config_context(array_api_dispatch=True):
        assert_array_equal(np.asarray(model.predict(blocks)), model.predict(moons()))
    # Rows to fit come into memory.
    assert_same_answers(small(2).fit(blocks), model, moons())
