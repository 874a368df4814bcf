"""Each step of a sequence errs by few eps of what was computed, against long double."""

from __future__ import annotations

import numpy as np
import pytest
from bounds import USUAL
from recurrent_cases import CELLS, make_case, step_sizes

pytestmark = pytest.mark.usefixtures("judged_dtype")


def steps_of(case, **options):
    """The state after each step of one call over all, as one step after the other gives it too (test_sequence_bits)."""
    states, state = [], case.state
    for t in range(len(case.x)):
        _, state = case(x=case.x[t : t + 1], state=state, **options)
        states.append(state)
    return states


def largest_error(case, **options):
    """Over all steps, each judged from the state that it began with."""
    found, eps, worst = steps_of(case, **options), np.finfo(case.x.dtype).eps, 0.0
    before = case.state
    for t, after in enumerate(found):
        _, expected, saved = case._replace(x=case.x[t : t + 1], state=before).exact(**options)
        (sizes,) = step_sizes(case, saved)
        for one, right, size in zip(after, expected, sizes, strict=True):
            worst = max(worst, float((np.abs(one.astype(np.longdouble) - right) / (eps * size)).max()))
        before = after
    return worst


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_errs_by_few_eps(cell, dtype, isa, record_error):
    worst = max(
        largest_error(make_case(cell, steps, batch, inputs, hidden, dtype))
        for steps, batch, inputs, hidden in ((8, 3, 5, 7), (4, 9, 33, 48), (2, 2, 300, 70), (3, 1, 1, 17))
    )
    record_error("h and c", isa, dtype, cell, worst)
    assert worst <= USUAL["h and c"]
