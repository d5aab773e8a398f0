"""
Save a model, go on after a crash
=================================

A model is saved to one file, and loading it runs no code. A fit with a checkpoint that
was killed continues where it was if it is run again.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import make_moons

import skflowmix
from skflowmix import FlowMixture, TrainingHistoryDisplay

folder = Path(tempfile.mkdtemp())
X, _ = make_moons(400, noise=0.08, random_state=0)
quick = {"tol": 0.01, "n_iter_no_change": 3, "random_state": 0}

# %%
# Files
# -----

model = FlowMixture(2, **quick).fit(X)
skflowmix.save(model, folder / "moons.safetensors")
loaded = skflowmix.load(folder / "moons.safetensors")
print(np.array_equal(loaded.score_samples(X), model.score_samples(X)))
print(f"{(folder / 'moons.safetensors').stat().st_size / 1e6:.1f} MB")

# %%
# A damaged file is refused.

content = bytearray((folder / "moons.safetensors").read_bytes())
content[len(content) // 2] ^= 1
(folder / "damaged.safetensors").write_bytes(content)
try:
    skflowmix.load(folder / "damaged.safetensors")
except skflowmix.ModelFileError as error:
    print(type(error).__name__)

# %%
# Checkpoints
# -----------
#
# Here a callback raises an error in the tenth epoch, to simulate a crash. The folder
# then contains the state of the fit at most 30 seconds earlier; for this short fit that
# is only the state of its random generator.


class Crash:
    """Callback of scikit-learn's protocol that fails once, in its tenth epoch."""

    epochs = 0

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, **seen):
        self.epochs += 1
        if self.epochs == 10:
            raise RuntimeError("power cut")


checkpoint = folder / "fit of the moons"
try:
    FlowMixture(2, **quick).set_callbacks(Crash()).fit(X, checkpoint=checkpoint)
except RuntimeError as error:
    print(f"{error}, left behind: {sorted(path.name for path in checkpoint.iterdir())}")

# %%
# If the fit is run again with the same data, parameters and folder, its result is the
# same as without the crash, to the last bit, and the folder is deleted.

resumed = FlowMixture(2, **quick).fit(X, checkpoint=checkpoint)
print(np.array_equal(resumed.score_samples(X), model.score_samples(X)))
print(checkpoint.exists())
TrainingHistoryDisplay.from_estimator(resumed)
