"""An initialiser beyond ``torch.nn.init``: convolution kernels that start as an orthogonal map of the channels."""

import torch
from torch import Tensor

from fastinit import _kernels, _parts
from fastinit._overridable import overridable


@overridable
def delta_orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a convolution kernel so that it is an orthogonal map of the channels at its centre and zero elsewhere.

    With stride 1 and padding that keeps the size, the convolution then preserves the norm of its input, times
    ``gain``: Xiao et al. (2018), "Dynamical isometry and a mean field theory of CNNs: how to train 10,000-layer
    vanilla convolutional neural networks". The matrix at the centre is one that ``orthogonal_`` draws.

    Args:
        tensor: the kernel to fill, of the shape (outputs, inputs, *field) with one to three dimensions of field; the
            centre of an even dimension is the one that ``padding="same"`` leaves in place.
        gain: the factor by which the matrix is multiplied; any finite number.
        generator: where the key comes from.

    Raises:
        ValueError: if ``tensor`` has not three to five dimensions, or more inputs than outputs.
        RuntimeError: if ``gain`` is not finite or beyond the tensor's dtype, or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.delta_orthogonal_(torch.empty(8, 4, 3, 3))
        >>> centre = w[:, :, 1, 1]
        >>> torch.allclose(centre.T @ centre, torch.eye(4), atol=1e-6), w.count_nonzero().item()
        (True, 32)
    """
    if not 3 <= tensor.dim() <= 5:
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    outputs, inputs, *field = tensor.shape
    if inputs > outputs:
        raise ValueError(
            f"There must be at least as many outputs as inputs, but the shape is {tuple(tensor.shape)}"
        )
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    position = [(size - 1) // 2 for size in field]
    memory, place = _parts.here(tensor)
    _kernels.require_writable("delta_orthogonal_", memory)
    # The matrix first: should an argument be wrong, nothing has been written yet.
    with torch.no_grad():
        if place is None:
            centre = memory
            for index in position:
                centre = centre.select(2, index)
            matrix = drawn = torch.empty((outputs, inputs), dtype=tensor.dtype, device=tensor.device)
        else:
            centre, place = place.centre(memory, position)
            matrix = torch.empty(centre.shape, dtype=tensor.dtype, device=tensor.device)
            drawn = _parts.Part(matrix, place)
        _kernels.orthogonal_(drawn, gain, generator, "delta_orthogonal_")
        _kernels.zero_(memory, "delta_orthogonal_")
        centre.copy_(matrix)
    return tensor
