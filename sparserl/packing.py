"""Many tensors of every member in one buffer, for what treats all of them alike: clipping and the optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

ALIGNMENT = 16
"""Numbers. A vector unit does up to 16 float32 at once, and what is left over by other instructions, which round otherwise:
with every member at a multiple of 16 nothing is ever left over, and a member does not depend on its place."""


class Packed:
    """Holds the values and gradients of ``tensors`` (each ``[member, ...]``) side by side, ``[member, width]``.

    ``tensors`` are views of the buffer and leaves for autograd: they change when the buffer does.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        members = next(iter(tensors.values())).shape[0]
        numbers = sum(tensor[0].numel() for tensor in tensors.values())
        width = -(-numbers // ALIGNMENT) * ALIGNMENT
        like = next(iter(tensors.values()))
        self.buffer = like.new_zeros(members, width)
        self.buffer.grad = torch.zeros_like(self.buffer)
        values = self._views(self.buffer, tensors)
        self.gradients = self._views(self.buffer.grad, tensors)
        for name, value in values.items():
            value.copy_(tensors[name])
        self.tensors = {name: value.detach().requires_grad_() for name, value in values.items()}

    @staticmethod
    def _views(buffer: Tensor, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        views, start = {}, 0
        for name, like in shapes.items():
            end = start + like[0].numel()
            views[name] = buffer[:, start:end].view(like.shape)
            start = end
        return views

    def set_gradients(self, gradients: Sequence[Tensor]) -> None:
        """The gradients of ``tensors``, in their order."""
        for view, gradient in zip(self.gradients.values(), gradients, strict=True):
            view.copy_(gradient)
        assert self.buffer.grad is not None
        self.norms: Float[Tensor, "member"] = row_norm(self.buffer.grad)
        """Of the gradients as they were set: clipping does not change them. One that is not finite shows here."""

    def clip(self, max_norm: float) -> Float[Tensor, "member"]:
        """Scale each member's gradient so that its norm is at most ``max_norm``; returns the scales.

        One norm for each member: a norm over the whole population would let one member's gradient shrink another's.
        """
        gradient = self.buffer.grad
        assert gradient is not None
        scale = (max_norm / (self.norms + 1e-6)).clamp_(max=1.0)
        gradient.mul_(scale.unsqueeze(1))
        return scale


def row_norm(tensor: Float[Tensor, "member ..."]) -> Float[Tensor, "member"]:
    """The Euclidean norm of each member's part."""
    norm: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return norm
