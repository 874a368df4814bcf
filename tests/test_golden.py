"""The bits of every operation and dtype are those that golden.json holds."""

from __future__ import annotations

import json

import golden_sequences as sequences
import pytest
from golden import COLUMNS, GROUPS, STORED, checksums, every_call, find_results, make_calls


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_the_bits_are_the_stored_ones(group, isa):
    stored = json.loads(STORED.read_text())[COLUMNS[isa]]
    calls = [call for call in make_calls() if (call.operation, call.dtype) == group]
    assert len(calls) >= 40
    changed = [call.name for call in calls if checksums(find_results(call)) != stored[call.name]]
    assert not changed, f"other bits than stored: {changed} (if that is meant, see golden.py)"


def test_the_bits_of_sequences_are_the_stored_ones(isa):
    stored = json.loads(STORED.read_text())[COLUMNS[isa]]
    found = {call.name: checksums(sequences.find_results(call)) for call in sequences.make_calls()}
    changed = [name for name, checksum in found.items() if checksum != stored[name]]
    assert not changed, f"other bits than stored: {changed} (if that is meant, see golden.py)"


def test_every_stored_checksum_is_of_a_call():
    names = set(every_call())
    for column, stored in json.loads(STORED.read_text()).items():
        assert set(stored) == names, column
