"""Many tensors of every member in one buffer, for what treats all of them alike: clipping and Adam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam

ALIGNMENT = 16
"""Numbers. A vector unit does up to 16 float32 at once, and what is left over by other instructions, which round otherwise:
with every member at a multiple of 16 nothing is ever left over, and a member does not depend on its place."""


class Packed:
    """Holds the values and gradients of ``tensors`` (each ``[member, ...]``) side by side, ``[member, width]``.

    ``tensors`` are views of the buffer and leaves for autograd: they change when the buffer does. ``values`` are the same for
    whoever only reads them: autograd does not follow.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        members = next(iter(tensors.values())).shape[0]
        numbers = sum(tensor[0].numel() for tensor in tensors.values())
        width = -(-numbers // ALIGNMENT) * ALIGNMENT
        like = next(iter(tensors.values()))
        self.buffer = like.new_zeros(members, width)
        self.buffer.grad = torch.zeros_like(self.buffer)
        self.values = self._views(self.buffer, tensors)
        self.gradients = self._views(self.buffer.grad, tensors)
        for name, value in self.values.items():
            value.copy_(tensors[name])
        self.tensors = {name: value.detach().requires_grad_() for name, value in self.values.items()}
        self.moments = {
            "exp_avg": torch.zeros_like(self.buffer),
            "exp_avg_sq": torch.zeros_like(self.buffer),
            "step": torch.zeros((), device=self.buffer.device),  # one number for all members
        }

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

    def clear_gradients(self) -> None:
        """No gradient at all."""
        assert self.buffer.grad is not None
        self.buffer.grad.zero_()
        self.norms = self.buffer.grad.new_zeros(len(self.buffer))

    def clip(self, max_norm: float) -> Float[Tensor, "member"]:
        """Scale each member's gradient so that its norm is at most ``max_norm``; returns the scales.

        One norm for each member: a norm over the whole population would let one member's gradient shrink another's.
        """
        gradient = self.buffer.grad
        assert gradient is not None
        scale = (max_norm / (self.norms + 1e-6)).clamp_(max=1.0)
        gradient.mul_(scale.unsqueeze(1))
        return scale

    def step(self, learning_rate: float) -> None:
        """One step of Adam (Kingma and Ba 2015) with torch's defaults.

        The function, not the optimiser: at a few members that one's bookkeeping takes longer than the step.
        """
        moments = self.moments
        assert self.buffer.grad is not None
        adam(
            [self.buffer],
            [self.buffer.grad],
            [moments["exp_avg"]],
            [moments["exp_avg_sq"]],
            [],
            [moments["step"]],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def row_norm(tensor: Float[Tensor, "member ..."]) -> Float[Tensor, "member"]:
    """The Euclidean norm of each member's part."""
    norm: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return norm
