"""What has to work where the wheel is installed without extras, from another folder."""

import sys
from importlib.metadata import metadata, version
from pathlib import Path

import numpy as np

import skflowmix

package = Path(skflowmix.__file__).parent
assert "site-packages" in package.parts, f"{package} is no installed copy"
assert version("skflowmix") == skflowmix.__version__
assert metadata("skflowmix")["License-Expression"] == "BSD-3-Clause"
assert (package / "py.typed").is_file(), "without py.typed its types do not count"
optional = {"matplotlib", "pandas", "rich"} & sys.modules.keys()
assert not optional, f"{optional} imported with the package"

X = np.random.default_rng(0).normal(size=(200, 2))
model = skflowmix.FlowMixture(2, max_iter=2, random_state=0).fit(X)
assert np.isfinite(model.score_samples(X)).all()
skflowmix.save(model, "model.safetensors")
loaded = skflowmix.load("model.safetensors")
assert (loaded.score_samples(X) == model.score_samples(X)).all()
try:
    skflowmix.TrainingHistoryDisplay.from_estimator(model)
except ImportError as error:
    assert "skflowmix[plot]" in str(error)
else:
    raise AssertionError("a display was drawn without matplotlib")
print(f"skflowmix {skflowmix.__version__} works from its wheel")
