"""The largest error of every library as the mean of the rows grows against their standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

from ..contenders import FLOOR, VARIANT, Contender
from ..grid.arrays import make_arrays
from ..grid.cells import Cell
from ..grid.errors import exact_outputs, largest_error
from ..operations import LAYER_NORM

CELL = Cell(LAYER_NORM, 128, 768, "float32", 1)

# mean/std: 0, then two a decade up to where float32 has four digits left for the deviations.
MEANS = (0.0, *(float(f"{digit}e{decade}") for decade in range(-1, 4) for digit in (1, 3)), 1e4)


def sweep_means(contenders: Sequence[Contender]) -> dict[str, dict[str, float]]:
    """{contender: {mean/std: largest error in eps}} of those who can, on the same rows."""
    judged = [contender for contender in contenders if contender.kind not in (FLOOR, VARIANT)]
    found: dict[str, dict[str, float]] = {}
    for mean in MEANS:
        arrays = make_arrays(CELL, seed=1, mean_over_std=mean)
        exact = exact_outputs(arrays)
        for contender in judged:
            try:
                prepared = contender.prepare(arrays)
                error = largest_error(prepared.outputs(prepared.call()), exact)
            except Exception:  # it has been named, with its reason, where it was to be timed
                continue
            found.setdefault(contender.name, {})[f"{mean:g}"] = error
    return found
