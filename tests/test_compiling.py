import json
import subprocess
import sys

from numba.core.dispatcher import Dispatcher

from neuralef import compiling, loops, upsampling

USE = """
import json, sys
from importlib import import_module
import numpy as np
import torch
from neuralef import compiling, graph
from neuralef.objective import neural_eigenfunction_objective
from neuralef.segmentation import cluster_map
from neuralef.upsampling import Guide, guided_map

def types_of(name):
    module, function = name.split(".")
    return [str(types) for types in getattr(import_module(f"neuralef.{module}"), function).signatures]

for name in compiling.SIGNATURES:
    compiling.compile_loop(name)
ahead = {name: types_of(name) for name in compiling.SIGNATURES}
features, colours = torch.randn(2, 6, 6, 8), torch.rand(2, 6, 6, 3)
graph.nearest_neighbors(features.flatten(0, 2), 5, block=(16, 16))
kappa = graph.kernel(features, colours, feature_neighbors=5)
psi = torch.randn(72, 4, requires_grad=True)
neural_eigenfunction_objective(psi, kappa, orthogonality_weight=0.08, trace_scale=0.01).loss.backward()
cluster_map(torch.randn(6, 6, 4), (30, 40))
guided_map(torch.randn(6, 6, 4), np.zeros((30, 40, 3), np.uint8), Guide(0.5, 0.1, 1.0))
print(json.dumps([ahead, {name: types_of(name) for name in compiling.SIGNATURES}]))
"""


def test_every_parallel_loop_is_compiled_ahead():
    """What they call, and is not parallel, is compiled with them."""
    modules = {"loops": loops, "upsampling": upsampling}
    found = {
        f"{module}.{name}"
        for module, contents in modules.items()
        for name, value in vars(contents).items()
        if isinstance(value, Dispatcher) and value.targetoptions.get("parallel")
    }
    assert found == set(compiling.SIGNATURES)


def test_loops_are_called_with_the_types_they_were_compiled_for():
    """In a process of its own: tests of the loops may call them otherwise."""
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=True)
    ahead, afterwards = json.loads(done.stdout)
    assert all(len(types) == 1 for types in ahead.values())
    assert afterwards == ahead
