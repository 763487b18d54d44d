"""Many tensors of every member in one buffer, for what treats all of them alike: clipping, optimisers and targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparserl.optimizers import Moments, Optimizer

ALIGNMENT = 16
"""Numbers. SIMD kernels handle 16 float32 at a time and round differently in the remainder. Padding each member to a multiple
of 16 leaves no remainder, so a member's result does not depend on its index."""


SKIPPED = "skipped"
"""Beside the moments of an optimiser: in how many of its steps each member took no part."""


class FlatTensors:
    """Tensors ``[member, ...]`` side by side in ``buffer``, ``[member, width]``; ``views`` are the tensors in there."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        like = next(iter(tensors.values()))
        numbers = sum(tensor[0].numel() for tensor in tensors.values())
        self.buffer = like.new_zeros(len(like), -(-numbers // ALIGNMENT) * ALIGNMENT)
        self.views = views(self.buffer, tensors)
        for name, view in self.views.items():
            view.copy_(tensors[name])

    def moved(self, buffer: Float[Tensor, "member width"]) -> FlatTensors:
        """The same tensors in another buffer, whose numbers they take."""
        other = copy.copy(self)
        other.buffer, other.views = buffer, views(buffer, self.views)
        return other


class Parameters(FlatTensors):
    """Tensors that an optimiser moves, with their gradients and moments.

    ``leaves`` are the tensors for autograd: they change when the buffer does. ``views`` are the same for whoever only reads
    them.
    """

    def __init__(self, tensors: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        super().__init__(tensors)
        self._optimizer = optimizer
        self.moments = optimizer.init(self.buffer) | {SKIPPED: self.buffer.new_zeros(len(self.buffer), 1)}
        self._factors: Sequence[Tensor] = ()  # in a program: of the step that it takes
        self._averages = _averages(self.moments)
        self.leaves = {name: view.detach().requires_grad_() for name, view in self.views.items()}
        self.gradient = torch.zeros_like(self.buffer)
        self.norms = self.gradient.new_zeros(len(self.gradient))
        """Of each member's gradient as it was set: clipping does not change them. One that is not finite shows here."""

    def factors(self, learning_rate: float, later: int = 0) -> tuple[float, ...]:
        """Those of the next step of the optimiser, or of one that is so many steps ``later``."""
        return self._optimizer.factors(float(self.moments["step"]) + later, learning_rate)

    def for_program(
        self, buffer: Float[Tensor, "member width"], moments: Moments, factors: Sequence[Float[Tensor, ""]]
    ) -> Parameters:
        """The same parameters in another buffer, with other moments and without a gradient; they step by ``factors``."""
        other = copy.copy(self)
        other.buffer, other.views, other.moments = buffer, views(buffer, self.views), moments
        other._factors = factors  # noqa: SLF001 (it is one of this class)
        other._averages = _averages(moments)  # noqa: SLF001 (it is one of this class)
        other.leaves = {name: view.detach().requires_grad_() for name, view in other.views.items()}
        other.gradient = torch.zeros_like(buffer)
        return other

    def set_gradients(self, gradients: Sequence[Tensor], add: bool = False) -> None:
        """The gradients of ``leaves``, in their order; or ``add`` them to those that are set."""
        if self._factors:  # in a program, whose views take the order in memory of the tensor that is traced for granted
            gradients = [its.clone(memory_format=torch.contiguous_format) for its in gradients]
        pieces = [its.reshape(its.shape[0], -1) for its in gradients]
        members, width = self.buffer.shape
        padding = self.buffer.new_zeros(members, width - sum(its.shape[1] for its in pieces))
        flat = torch.cat([*pieces, padding], dim=1)
        self.gradient = self.gradient + flat if add else flat
        self.norms = row_norm(self.gradient)

    def step(
        self,
        learning_rate: float | Tensor,
        learns: Float[Tensor, "member 1"],
        scale: Float[Tensor, "member 1"] | None = None,
        active: Bool[Tensor, "member"] | None = None,
    ) -> None:
        """One step of the optimiser, with gradients multiplied by ``scale``; in a program the rate is among its factors.

        Of a member for which ``learns`` is 0, not 1, gradient and moments become zero, so its values stay as they are.
        (Products take a tenth of the time that masks do.) One that is not ``active`` stays as it is, with its moments, and
        the step does not count among those that it has taken.
        """
        kept = [] if active is None else [(tensor, tensor.clone()) for tensor in (self.buffer, *self._averages)]
        self.gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(learns if scale is None else learns * scale)
        for average in self._averages:
            average.mul_(learns)
        if active is not None:
            skipped = self.moments[SKIPPED]
            taken = (self.moments["step"] - skipped).double()
            rate = torch.as_tensor(learning_rate, dtype=taken.dtype, device=taken.device)
            factors = [factor.to(skipped.dtype) for factor in self._optimizer.factors(taken, rate)]
            self._optimizer.step_by(self.buffer, self.gradient, self.moments, factors)
            skipped.add_((~active).unsqueeze(1))
        elif self._factors:
            self._optimizer.step_by(self.buffer, self.gradient, self.moments, self._factors)
        else:
            self._optimizer.step(self.buffer, self.gradient, self.moments, float(learning_rate))
        if active is not None:
            for tensor, before in kept:
                tensor.copy_(torch.where(active.unsqueeze(1), tensor, before))


def _averages(moments: Moments) -> list[Tensor]:
    return [moment for name, moment in moments.items() if name not in ("step", SKIPPED)]


def clip_scale(parameters: Sequence[Parameters], max_norm: float) -> Float[Tensor, "member 1"]:
    """What each member's gradients in all of these are to be multiplied by so that their norm together is at most ``max_norm``.

    One norm for each member: a norm over the whole population would let one member's gradient shrink another's. 0 where it is
    not finite, since such a member learns no more.
    """
    norms = [its.norms for its in parameters]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms, dim=1), dim=1)
    return (max_norm / (norm + 1e-6)).clamp_(max=1.0).nan_to_num_(0.0).unsqueeze(1)


def views(buffer: Float[Tensor, "member width"], shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a buffer in the shapes of some tensors, side by side in their order."""
    found, start = {}, 0
    for name, like in shapes.items():
        end = start + like.shape[1:].numel()
        found[name] = buffer[:, start:end].view(buffer.shape[0], *like.shape[1:])
        start = end
    return found


def row_norm(tensor: Float[Tensor, "member ..."]) -> Float[Tensor, "member"]:
    """The Euclidean norm of each member's part."""
    norm: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return norm
