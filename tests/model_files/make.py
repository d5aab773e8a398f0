"""Write files as the present version writes them, and what their models answer.

Run once for each version of the format: ``python tests/model_files/make.py 1``. Files
of former versions stay as they are.
"""

import sys
from pathlib import Path

import numpy as np

import skflowmix
from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOptions,
    FlowMixtureOutlierDetector,
)

ROWS = np.array([[0.0, 0.0], [1.0, -0.5], [30.0, 2.0]])


def main(version):
    """Fit the three estimators and save them."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 2)) + 6.0 * y[:, None]
    options = FlowMixtureOptions(posterior_units=(4,), n_iter_init=1)
    networks = {"n_transforms": 1, "hidden_units": 4, "max_iter": 2, "tol": 10.0}
    networks |= {"n_iter_no_change": 1, "random_state": 0, "options": options}
    models = {
        "mixture": FlowMixture(2, flow="nsf-ar", **networks).fit(X),
        "classifier": FlowMixtureClassifier(flow="realnvp", **networks).fit(
            X, np.array(["a", "b"])[y]
        ),
        "detector": FlowMixtureOutlierDetector(**networks).fit(X),
    }
    folder = Path(__file__).parent
    for name, model in models.items():
        skflowmix.save(model, folder / f"{name}_{version}.safetensors")
    scores = {name: model.score_samples(ROWS) for name, model in models.items()}
    np.savez(folder / f"scores_{version}.npz", rows=ROWS, **scores)


if __name__ == "__main__":
    main(int(sys.argv[1]))
