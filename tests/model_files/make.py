"""Write files as the present version writes them, and what their models answer.

Run once for each version of the format: ``python tests/model_files/make.py 1``. Files
of former versions stay as they are.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import make_moons

import skflowmix
from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOptions,
    FlowMixtureOutlierDetector,
)

ROWS = np.array([[0.0, 0.5], [1.0, -0.5], [1.5, 0.2], [30.0, 2.0]])


def answers(model, name):
    """What is kept of a model's answers to `ROWS`."""
    kept = {"score_samples": model.score_samples(ROWS), "predict": model.predict(ROWS)}
    if name != "detector":
        kept["predict_proba"] = model.predict_proba(ROWS)
    return {f"{name} {method}": answer for method, answer in kept.items()}


def main(version):
    """Fit the three estimators, whose flows are kept, and save them."""
    X, y = make_moons(400, noise=0.05, random_state=0)
    options = FlowMixtureOptions(posterior_units=(4,))
    networks = {"n_transforms": 2, "hidden_units": 8, "max_iter": 60}
    networks |= {"random_state": 0, "options": options}
    models = {
        "mixture": FlowMixture(2, flow="nsf-ar", **networks).fit(X),
        "classifier": FlowMixtureClassifier(flow="realnvp", **networks).fit(
            X, np.array(["a", "b"])[y]
        ),
        "detector": FlowMixtureOutlierDetector(flow="maf", **networks).fit(X),
    }
    folder = Path(__file__).parent
    kept = {"rows": ROWS}
    for name, model in models.items():
        history = getattr(model, "mixture_", model).history_
        assert history[-1]["phase"] == "all rows", name
        skflowmix.save(model, folder / f"{name}_{version}.safetensors")
        kept |= answers(model, name)
    np.savez(folder / f"answers_{version}.npz", **kept)


if __name__ == "__main__":
    main(int(sys.argv[1]))
