"""Test reliability: killed fits, damaged files, threads, many fits.

- ``kills``: fits with a checkpoint, in separate processes, are killed (SIGKILL) at
  random moments and run again until they end; the result must equal that of a fit
  without kills, bit by bit.
- ``files``: model and checkpoint files with flipped bits, cut ends, other headers and
  declared sizes up to 2^64 - 1; each must be refused with a `ModelFileError`.
- ``threads``: sixteen threads score and sample one model; results must equal those of
  one thread.
- ``soak``: many fits in one process; memory and threads must not grow.

Each part prints a line. Examples::

    python benchmarks/reliability.py
    python benchmarks/reliability.py --parts kills --number 50
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import make_moons

import skflowmix
from skflowmix import FlowMixture, ModelFileError

NUMBERS = {"kills": 12, "files": 2000, "threads": 200, "soak": 100}
KINDS = ("mixture", "restarts", "parallel", "classifier", "detector")
LONGEST = 600.0
"""Seconds that a part may take by default; it then says how far it came."""

FIT = """
import sys, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
torch.set_num_threads(1)
from sklearn.datasets import make_moons
import skflowmix, skflowmix.checkpoints
skflowmix.checkpoints.INTERVAL = 0.0
kind, folder = sys.argv[1], sys.argv[2] or None
X, y = make_moons(300, noise=0.1, random_state=0)
settings = {"max_iter": 8, "hidden_units": (16,), "random_state": 0}
if kind == "classifier":
    y = np.where(y, y, -1)
    model, data = skflowmix.FlowMixtureClassifier(2, **settings), (X, y)
elif kind == "detector":
    model, data = skflowmix.FlowMixtureOutlierDetector(2, **settings), (X,)
else:
    settings |= {"mixture": {}, "restarts": {"n_init": 2}}.get(
        kind, {"n_init": 3, "n_jobs": 2}
    )
    model, data = skflowmix.FlowMixture(2, **settings), (X,)
model.fit(*data, checkpoint=folder)
mixture = getattr(model, "mixture_", model)
print(model.score_samples(X).tobytes().hex(), mixture.elbo_gap_, mixture.history_)
"""


def run_fit(kind, folder=""):
    return subprocess.Popen(
        [sys.executable, "-c", FIT, kind, folder],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kills(number, rng, longest):
    """Kill fits at random moments."""
    expected, seconds = {}, {}
    n_equal = n_kills = tried = 0
    end = time.monotonic() + longest
    while tried < number and time.monotonic() < end:
        kind = KINDS[tried % len(KINDS)]
        if kind not in expected:
            begin = time.monotonic()
            expected[kind] = run_fit(kind).communicate()[0]
            seconds[kind] = time.monotonic() - begin
        with tempfile.TemporaryDirectory() as parent:
            folder = str(Path(parent) / "checkpoint")
            for patience in (1.0, 1.0, 1.0, None):
                process = run_fit(kind, folder)
                wait = patience and rng.uniform(0.2, 1.2) * seconds[kind]
                try:
                    answer = process.communicate(timeout=wait)[0]
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
                    n_kills += 1
        tried += 1
        n_equal += answer == expected[kind]
    return f"{n_equal} of {tried} fits ended the same after {n_kills} kills", (
        n_equal == tried > 0
    )


def damaged(content, rng):
    """Change a file in one of several ways."""
    kind = rng.choice(["bits", "cut", "size", "header", "swap"])
    changed = bytearray(content)
    length = int.from_bytes(content[:8], "little")
    if kind == "bits":
        for _ in range(rng.randint(1, 5)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del changed[rng.randrange(len(changed)) :]
    elif kind == "size":
        size = rng.choice([0, 1, length + 1, len(content), 2**31, 2**63, 2**64 - 1])
        changed[:8] = size.to_bytes(8, "little")
    elif kind == "header":
        for _ in range(rng.randint(1, 10)):
            changed[8 + rng.randrange(length)] = rng.randrange(256)
    else:
        half = 8 + length // 2
        changed[8 : 8 + length] = content[half : 8 + length] + content[8:half]
    return bytes(changed)


def files(number, rng, longest):
    """Read damaged files."""
    X = make_moons(100, noise=0.1, random_state=0)[0]
    model = FlowMixture(2, max_iter=2, hidden_units=8, random_state=0)
    n_refused = n_silent = tried = 0
    end = time.monotonic() + longest
    with tempfile.TemporaryDirectory() as parent:
        path, folder = Path(parent) / "model", Path(parent) / "checkpoint"
        skflowmix.save(model.fit(X), path)
        present = skflowmix.checkpoints.INTERVAL
        skflowmix.checkpoints.INTERVAL = 0.0
        remove = skflowmix.checkpoints.Checkpoint.remove
        skflowmix.checkpoints.Checkpoint.remove = lambda self: None
        model.fit(X, checkpoint=folder)
        skflowmix.checkpoints.INTERVAL = present
        skflowmix.checkpoints.Checkpoint.remove = remove
        originals = {p: p.read_bytes() for p in (path, *folder.iterdir())}
        while tried < number and time.monotonic() < end:
            target = rng.choice(sorted(originals))
            content = damaged(originals[target], rng)
            if content == originals[target]:
                continue
            target.write_bytes(content)
            tried += 1
            try:
                if target == path:
                    skflowmix.load(path)
                else:
                    model.fit(X, checkpoint=folder)
                n_silent += 1
            except ModelFileError:
                n_refused += 1
            target.write_bytes(originals[target])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{n_refused} of {tried} damaged files refused, {n_silent} read silently; "
        f"peak memory {peak:.0f} MiB"
    ), n_refused == tried > 0


def threads(number, rng, longest):
    """Score and sample one model in sixteen threads."""
    X = make_moons(300, noise=0.1, random_state=0)[0]
    model = FlowMixture(2, max_iter=3, random_state=0).fit(X)
    expected = model.score_samples(X), model.sample(50, random_state=1)[0]

    def ask(_):
        scores = np.array_equal(model.score_samples(X), expected[0])
        return scores and np.array_equal(
            model.sample(50, random_state=1)[0], expected[1]
        )

    with ThreadPoolExecutor(16) as pool:
        right = sum(pool.map(ask, range(number)))
    return f"{right} of {number} answers in 16 threads are those of one", (
        right == number
    )


def soak(number, rng, longest):
    """Fit again and again."""
    X = make_moons(100, noise=0.1, random_state=0)[0]
    tried, memory = 0, []
    end = time.monotonic() + longest
    n_threads = None
    while tried < number and time.monotonic() < end:
        FlowMixture(2, max_iter=2, hidden_units=8, random_state=tried).fit(X)
        tried += 1
        if tried % max(number // 10, 1) == 0:
            memory.append(resident())
        if n_threads is None:
            n_threads = threading.active_count()
    growth = (memory[-1] - memory[1]) / 2**20
    more = threading.active_count() - n_threads
    return (
        f"{tried} fits in one process: {growth:.1f} MiB and {more} threads more"
    ), growth < 20 and more <= 0


def resident():
    """Bytes of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=NUMBERS, default=list(NUMBERS))
    parser.add_argument("--number", type=int, help="how many tries of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, default=LONGEST, help="seconds that a part may take"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = {"kills": kills, "files": files, "threads": threads, "soak": soak}
    all_right = True
    for name in args.parts:
        begin = time.monotonic()
        number = args.number or NUMBERS[name]
        line, right = parts[name](number, random.Random(args.seed), args.longest)
        all_right &= right
        state = "survived" if right else "FAILED"
        print(f"{name}: {state}. {line} ({time.monotonic() - begin:.0f} s)", flush=True)
    sys.exit(not all_right)


if __name__ == "__main__":
    main()
