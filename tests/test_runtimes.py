"""Other users of OpenMP in the process: whoever is imported first, results are right, threads work, pools are few.

fastln asks for the runtime by its plain name, libgomp.so.1. PyTorch's wheels bring one of that name, and the loader
takes the two for one. scikit-learn's wheels bring a copy under a name of its own, which stays a second runtime.
"""

from __future__ import annotations

import json

import pytest
from helpers import output_of
from internals import config

REPORT = """
import importlib, json, os, sys
import numpy as np

modules = [importlib.import_module(name) for name in sys.argv[1].split()]
import fastln
from internals import set_min_parallel_bytes
from threadpoolctl import threadpool_info

set_min_parallel_bytes(0)
rng = np.random.default_rng(0)
x = rng.standard_normal((64, 768), dtype=np.float32)

def threads_alive():
    return len(os.listdir("/proc/self/task"))

def work_of_others():
    # Their own parallel regions, between those of fastln.
    if "torch" in sys.modules:
        import torch
        torch.set_num_threads(2)
        y = torch.nn.functional.layer_norm(torch.from_numpy(x), (768,)).numpy()
        assert abs(y - fastln.layer_norm(x)).max() < 1e-5
    if "sklearn.cluster" in sys.modules:
        from sklearn.cluster import KMeans
        assert KMeans(2, n_init=1, max_iter=3, random_state=0).fit(x).labels_.size == 64

alone = fastln.layer_norm(x, num_threads=1)
before = threads_alive()
same = True
for _ in range(3):
    same = same and fastln.layer_norm(x, num_threads=2).tobytes() == alone.tobytes()
    work_of_others()
info = [each for each in threadpool_info() if each["user_api"] == "openmp"]
with __import__("threadpoolctl").threadpool_limits(1, user_api="openmp"):
    limited = fastln.get_num_threads()
print(json.dumps({
    "same": same,
    "grown": threads_alive() - before,
    "runtimes": [os.path.basename(each["filepath"]).partition(".so")[0] for each in info],
    "limited": limited,
}))
"""

ORDERS = (
    "fastln",
    "torch fastln",
    "fastln torch",
    "sklearn.cluster fastln",
    "fastln sklearn.cluster",
    "torch sklearn.cluster fastln",
    "fastln sklearn.cluster torch",
)


@pytest.mark.skipif(not config()["build"]["openmp"], reason="this build has no OpenMP")
@pytest.mark.parametrize("order", ORDERS)
def test_runtimes_of_one_name_are_one(order):
    pytest.importorskip("threadpoolctl")
    for name in order.split():
        pytest.importorskip(name, reason=f"{name} is not installed")
    found = json.loads(output_of(REPORT, order, timeout=300))
    assert found["same"]
    assert found["grown"] >= 1
    assert found["limited"] == 1
    assert found["runtimes"].count("libgomp") == 1
    others = [name for name in found["runtimes"] if name != "libgomp"]
    assert len(others) <= ("sklearn" in order), f"a second runtime: {others}"
