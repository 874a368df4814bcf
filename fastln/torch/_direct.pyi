from collections.abc import Sequence

from torch import Tensor

def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out: Tensor | None,
) -> Tensor | None: ...
def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None,
    eps: float | None,
    out: Tensor | None,
    weight_offset: float = 0.0,
    rounds_x_hat: bool = False,
) -> Tensor | None: ...
def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out: Tensor | None,
    residual_out: Tensor | None,
) -> tuple[Tensor, Tensor] | None: ...
def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None,
    eps: float | None,
    out: Tensor | None,
    residual_out: Tensor | None,
) -> tuple[Tensor, Tensor] | None: ...
def lacks_gradients_alone(x: Tensor, weight: Tensor | None) -> bool: ...
