"""Where the time goes: torch's profiler over training steps of ``quick`` and over the backbone, as one table each."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import inputs
from benchmarks.harness import THREADS, machine
from neuralef.features import to_tensor
from neuralef.files import write_text
from neuralef.training import kernel_of, new_optimizer, new_psi, optimise

REPEATS = 10
SHOWN = 12


def write(folder: Path) -> Path:
    """Write ``hot_spots.md`` into ``folder``."""
    torch.set_num_threads(THREADS)
    parts = ["# Where the time goes\n\nShare of torch's operations, Python and numba between them left out."]
    for title, run in (("a training step of `quick`", _training_step()), ("the backbone, an image", _backbone())):
        parts.append(f"## {title}\n\n{_table(run).to_markdown(index=False, floatfmt='.1f')}")
    return write_text(folder / "hot_spots.md", "\n\n".join([*parts, machine()]) + "\n")


def _table(run) -> pd.DataFrame:
    run()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(REPEATS):
            run()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return pd.DataFrame(
        {
            "operation": event.key.removeprefix("aten::"),
            "calls": event.count / REPEATS,
            "ms": event.self_cpu_time_total / REPEATS / 1000,
            "share, %": 100 * event.self_cpu_time_total / total,
        }
        for event in events[:SHOWN]
    )


def _training_step():
    study = inputs.study()
    store, config = study.bench.train, study.profile.config
    psi = new_psi(store, config, study.profile.clusters, seed=0).train()
    optimizer = new_optimizer(psi, config)
    chosen, part = np.arange(config.batch_images), slice(0, None, config.patch_stride)
    levels, colours = store.levels(chosen, part, part), store.colours(chosen, part, part)

    def step() -> None:
        kappa = kernel_of(levels[..., -store.channels[-1] :], colours, config)
        noise = torch.Generator().manual_seed(0)
        optimise(psi, optimizer, levels, kappa, config, temperature=1.0, noise=noise)

    return step


def _backbone():
    bench = inputs.study().bench
    crops = to_tensor(inputs.photographs(2, bench.config.crop_size(bench.backbone.patch_size)))[:1]
    return lambda: bench.backbone(crops, precision=bench.config.precision)
