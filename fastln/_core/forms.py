"""The sizes of a recurrent object, and what its parameters are called, shaped and used for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from fastln._core.layers import Found
from fastln._core.parameters import KnownAttributes
from fastln._core.sequence_arguments import Array, Kind, Layer, Rows


class Form(NamedTuple):
    """The sizes of an object, from which follow the shapes of its parameters and states."""

    kind: Kind
    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    bidirectional: bool

    @property
    def directions(self) -> int:
        """Of each layer."""
        return 1 + self.bidirectional

    @property
    def features(self) -> int:
        """Of y."""
        return self.directions * self.hidden_size

    @property
    def places(self) -> list[str]:
        """What the names of parameters end with, for each layer and each of its directions."""
        ends = ("", "_reverse")[: self.directions]
        return [f"_l{number}{end}" for number in range(self.num_layers) for end in ends]

    @property
    def states(self) -> tuple[str, ...]:
        """What messages call the arrays of a state."""
        return self.kind.states if len(self.kind.states) > 1 else ("state",)

    def state_shape(self, rows: Rows) -> tuple[int, ...]:
        """Of each array of a state that goes with x."""
        layers, batch = self.num_layers * self.directions, rows.sizes[1]
        return (layers, batch, self.hidden_size) if rows.has_batch else (layers, self.hidden_size)

    def parameter_shapes(self, bias: bool, norm_bias: bool) -> dict[str, tuple[int, ...]]:
        """By their names, in PyTorch's order."""
        kind, hidden = self.kind, self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for index, place in enumerate(self.places):
            features = self.input_size if index < self.directions else self.features
            shapes[f"weight_ih{place}"] = (kind.gates * hidden, features)
            shapes[f"weight_hh{place}"] = (kind.gates * hidden, hidden)
            if bias and not norm_bias:
                shapes[f"bias{place}"] = (kind.gates * hidden,)
            for norm in kind.norms:
                shapes[f"{norm.key}{place}.weight"] = (norm.size * hidden,)
                # One bias can stand for those of the norms that are added up, not for that of c.
                if bias and (norm_bias or norm.key == "ln_c"):
                    shapes[f"{norm.key}{place}.bias"] = (norm.size * hidden,)
        return shapes

    def layers_of(self, arrays: Mapping[str, Array]) -> list[list[Layer]]:
        """The parameters, layer by layer, and of each its directions."""
        layers = [
            Layer(
                arrays[f"weight_ih{place}"],
                arrays[f"weight_hh{place}"],
                arrays.get(f"bias{place}"),
                tuple(
                    (arrays[f"{key}{place}.weight"], arrays.get(f"{key}{place}.bias")) for _, key, _ in self.kind.norms
                ),
                reverse=place.endswith("_reverse"),
            )
            for place in self.places
        ]
        return [layers[first : first + self.directions] for first in range(0, len(layers), self.directions)]

    def gradients_of(self, layers: list[list[Found]]) -> dict[str, Array]:
        """Their gradients by name; some are of parameters that the object does not have."""
        named: dict[str, Array] = {}
        for place, found in zip(self.places, itertools.chain(*layers), strict=True):
            named[f"weight_ih{place}"], named[f"weight_hh{place}"] = found.weight_ih, found.weight_hh
            named[f"bias{place}"] = found.bias
            for norm, (weight, bias) in zip(self.kind.norms, found.norms, strict=True):
                named[f"{norm.key}{place}.weight"], named[f"{norm.key}{place}.bias"] = weight, bias
        return named

    def __str__(self) -> str:
        """The object as it is made, without what is no size."""
        kind = {"rnn": "LayerNormRNN", "lstm": "LayerNormLSTM", "gru": "LayerNormGRU"}[self.kind.name]
        sizes = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        return f"{kind}({sizes}, batch_first={self.batch_first}, bidirectional={self.bidirectional})"


class Sized(KnownAttributes):
    """What has a form, and shows what it says."""

    __slots__ = ("_form",)

    _form: Form

    @property
    def input_size(self) -> int:
        """The numbers of each step of x."""
        return self._form.input_size

    @property
    def hidden_size(self) -> int:
        """The numbers of a state of one layer in one direction."""
        return self._form.hidden_size

    @property
    def num_layers(self) -> int:
        """The layers, each of which reads the outputs of the one before."""
        return self._form.num_layers

    @property
    def batch_first(self) -> bool:
        """Whether the first axis of x and y is the batch."""
        return self._form.batch_first
