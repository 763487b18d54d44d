from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparserl.training.optimizer import ALIGNMENT, Packed, row_norm
from torch import Tensor


def random_tensors(members: int, shapes: list[tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {str(index): torch.randn(members, *shape, generator=draw) for index, shape in enumerate(shapes)}


def packed_with(*gradients: Tensor) -> Packed:
    packed = Packed({str(index): torch.zeros_like(gradient) for index, gradient in enumerate(gradients)})
    packed.set_gradients(gradients)
    return packed


@given(
    members=st.integers(1, 4),
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=50)
def test_tensors_are_views_of_one_buffer(members: int, shapes: list[tuple[int, ...]]) -> None:
    shapes = [(*shape, 2) for shape in shapes]
    tensors = random_tensors(members, shapes)
    packed = Packed(tensors)
    assert packed.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(packed.tensors[name], tensor)
        assert packed.tensors[name].is_leaf
        assert packed.tensors[name].requires_grad
    # what fills each member's row up must never count: neither in a norm nor in what the optimiser moves
    numbers = sum(tensor[0].numel() for tensor in tensors.values())
    assert packed.buffer.shape[1] - numbers < ALIGNMENT
    assert packed.buffer.stride(0) % ALIGNMENT == 0
    assert (packed.buffer[:, numbers:] == 0).all()

    with torch.no_grad():
        packed.buffer += 1
    for name, tensor in tensors.items():
        assert torch.equal(packed.tensors[name].detach(), tensor + 1)

    gradients = list(random_tensors(members, shapes, seed=1).values())
    packed.set_gradients(gradients)
    for mine, gradient in zip(packed.gradients.values(), gradients, strict=True):
        assert torch.equal(mine, gradient)
    torch.testing.assert_close(
        row_norm(packed.buffer.grad),
        torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0).sqrt(),
    )


def test_a_step_is_that_of_torchs_optimiser_of_the_tensors() -> None:
    shapes = [(3, 5), (1, 5), (5, 2)]
    packed = Packed(random_tensors(2, shapes))
    apart = {name: tensor.requires_grad_() for name, tensor in random_tensors(2, shapes).items()}
    theirs = torch.optim.Adam(list(apart.values()), lr=0.1)
    for step in range(5):
        gradients = random_tensors(2, shapes, seed=10 + step)
        packed.set_gradients(list(gradients.values()))
        for name, gradient in gradients.items():
            apart[name].grad = gradient
        with torch.no_grad():
            packed.step(0.1)
        theirs.step()
    for name, tensor in apart.items():
        torch.testing.assert_close(packed.tensors[name], tensor)


# ---------------------------------------------------------------- clipping


def test_each_member_is_clipped_by_its_own_norm() -> None:
    # member 0: (3, 0) and (0, 4) have the norm 5, so a fifth of each is left; member 1: (0.3, 0) and (0, 0.4) have the
    # norm 0.5, which is allowed. One norm for both would be sqrt(25.25), and would shrink member 1 to a fifth as well.
    packed = packed_with(torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[[0.0], [4.0]], [[0.0], [0.4]]]))
    scale = packed.clip(max_norm=1.0)
    torch.testing.assert_close(scale, torch.tensor([0.2, 1.0]))
    torch.testing.assert_close(packed.gradients["0"], torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(packed.gradients["1"], torch.tensor([[[0.0], [0.8]], [[0.0], [0.4]]]))


def test_clipping_is_torchs_own_for_each_member() -> None:
    gradients = list(random_tensors(3, [(4, 3), (5,)]).values())
    gradients[0] *= torch.tensor([0.1, 1.0, 10.0]).view(3, 1, 1)
    packed = packed_with(*gradients)
    packed.clip(max_norm=2.5)
    for member in range(3):
        alone = [torch.zeros_like(gradient[member], requires_grad=True) for gradient in gradients]
        for tensor, gradient in zip(alone, gradients, strict=True):
            tensor.grad = gradient[member].clone()
        torch.nn.utils.clip_grad_norm_(alone, 2.5)
        for mine, tensor in zip(packed.gradients.values(), alone, strict=True):
            torch.testing.assert_close(mine[member], tensor.grad)


def test_a_norm_that_is_allowed_changes_no_bit() -> None:
    gradients = random_tensors(2, [(4, 3), (5,)])
    packed = packed_with(*gradients.values())
    assert packed.clip(max_norm=1e3).tolist() == [1.0, 1.0]
    assert all(torch.equal(packed.gradients[name], gradient) for name, gradient in gradients.items())


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_member_that_is_not_finite_leaves_the_others_alone(broken: float) -> None:
    packed = packed_with(torch.tensor([[3.0, 4.0], [broken, 1.0], [0.3, 0.4]]))
    packed.clip(max_norm=1.0)
    torch.testing.assert_close(packed.gradients["0"][[0, 2]], torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert not packed.gradients["0"][1].isfinite().all()


def test_row_norm_joins_all_of_a_member_and_nothing_else() -> None:
    assert row_norm(torch.tensor([[[1.0, 2.0], [2.0, 0.0]], [[0.0, 3.0], [0.0, 4.0]]])).tolist() == [3.0, 5.0]
