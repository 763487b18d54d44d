"""Weights in one buffer: how they are stepped and clipped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import make_learner, random_batches
from torch import Tensor

from sparserl.optimizers import Adam, RMSprop
from sparserl.training.parameters import ALIGNMENT, FlatTensors, Parameters, clip_scale, row_norm


def random_tensors(members: int, shapes: list[tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {str(index): torch.randn(members, *shape, generator=draw) for index, shape in enumerate(shapes)}


def parameters_with(*gradients: Tensor) -> Parameters:
    parameters = Parameters({str(index): torch.zeros_like(gradient) for index, gradient in enumerate(gradients)}, Adam())
    parameters.set_gradients(gradients)
    return parameters


def learning(members: int, *stopped: int) -> Tensor:
    learns = torch.ones(members, 1)
    learns[list(stopped)] = 0
    return learns


@given(
    members=st.integers(1, 4),
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=50)
def test_tensors_are_views_of_one_buffer(members: int, shapes: list[tuple[int, ...]]) -> None:
    """Also a tensor with one number a member, which has no axis beside that."""
    tensors = random_tensors(members, shapes)
    parameters = Parameters(tensors, Adam())
    assert parameters.views.keys() == parameters.leaves.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(parameters.views[name], tensor)
        assert not parameters.views[name].requires_grad
        assert parameters.leaves[name].is_leaf
        assert parameters.leaves[name].requires_grad
    # what fills each member's row up must never count: neither in a norm nor in what the optimiser moves
    numbers = sum(tensor[0].numel() for tensor in tensors.values())
    assert parameters.buffer.shape[1] - numbers < ALIGNMENT
    assert parameters.buffer.stride(0) % ALIGNMENT == 0
    assert (parameters.buffer[:, numbers:] == 0).all()

    parameters.buffer += 1
    for name, tensor in tensors.items():
        assert torch.equal(parameters.leaves[name].detach(), tensor + 1)

    gradients = list(random_tensors(members, shapes, seed=1).values())
    parameters.set_gradients(gradients)
    expected = torch.cat([gradient.reshape(members, -1) for gradient in gradients], dim=1)
    assert torch.equal(parameters.gradient[:, :numbers], expected)
    torch.testing.assert_close(parameters.norms, expected.norm(dim=1))
    parameters.set_gradients(gradients, add=True)
    torch.testing.assert_close(parameters.gradient[:, :numbers], 2 * expected)
    torch.testing.assert_close(parameters.norms, 2 * expected.norm(dim=1))


def test_flat_tensors_hold_copies() -> None:
    tensor = torch.ones(2, 3)
    flat = FlatTensors({"0": tensor})
    tensor.zero_()
    assert (flat.views["0"] == 1).all()


# ---------------------------------------------------------------- steps


def test_a_step_is_that_of_torchs_optimiser_of_the_tensors() -> None:
    shapes = [(3, 5), (1, 5), (5, 2)]
    parameters = Parameters(random_tensors(2, shapes), Adam(betas=(0.8, 0.95), eps=1e-3))
    apart = {name: tensor.requires_grad_() for name, tensor in random_tensors(2, shapes).items()}
    theirs = torch.optim.Adam(list(apart.values()), lr=0.1, betas=(0.8, 0.95), eps=1e-3)
    for step in range(5):
        gradients = random_tensors(2, shapes, seed=10 + step)
        parameters.set_gradients(list(gradients.values()))
        for name, gradient in gradients.items():
            apart[name].grad = gradient
        with torch.no_grad():
            parameters.step(0.1, learning(2))
        theirs.step()
    for name, tensor in apart.items():
        torch.testing.assert_close(parameters.views[name], tensor.detach())


@pytest.mark.parametrize("eps", [1e-8, 1e-5, 1.0])
def test_the_first_step_of_adam_in_closed_form(eps: float) -> None:
    """The averages, divided by what they lack, are the gradient and its square: a step is rate * g / (|g| + eps)."""
    gradient = torch.tensor([[1e-5, -1e-3, 0.5, 0.0]])
    parameters = Parameters({"0": torch.zeros_like(gradient)}, Adam(eps=eps))
    parameters.set_gradients([gradient])
    parameters.step(0.1, learning(1))
    torch.testing.assert_close(parameters.views["0"], -0.1 * gradient / (gradient.abs() + eps), rtol=1e-5, atol=0)


def test_rmsprop_is_torchs() -> None:
    """Twenty steps of two members beside torch's own optimiser, one for each member."""
    draw, optimizer = torch.Generator().manual_seed(0), RMSprop(alpha=0.9, eps=1e-3)
    parameters = Parameters({"0": torch.randn(2, 3, 5, generator=draw)}, optimizer)
    theirs = [parameters.views["0"][member].clone().requires_grad_() for member in range(2)]
    others = [torch.optim.RMSprop([tensor], lr=0.01, alpha=0.9, eps=1e-3) for tensor in theirs]
    for _ in range(20):
        gradient = torch.randn(2, 3, 5, generator=draw)
        parameters.set_gradients([gradient])
        parameters.step(0.01, learning(2))
        for tensor, other, its in zip(theirs, others, gradient, strict=True):
            tensor.grad = its.clone()
            other.step()
    for member, tensor in enumerate(theirs):
        torch.testing.assert_close(parameters.views["0"][member], tensor.detach(), rtol=1e-5, atol=1e-6)
    assert parameters.moments["step"] == 20


def test_rmsprop_leaves_a_row_without_gradients_to_the_bit() -> None:
    parameters = Parameters({"0": torch.randn(2, 33, generator=torch.Generator().manual_seed(0))}, RMSprop())
    before = parameters.buffer.clone()
    for _ in range(3):
        parameters.set_gradients([torch.tensor([[1.0], [0.0]]).expand(2, 33)])
        parameters.step(0.1, learning(2))
    assert torch.equal(parameters.buffer[1], before[1])
    assert (parameters.moments["square_avg"][1] == 0).all()
    assert (parameters.views["0"][0] != before[0, :33]).all()


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_eps_and_betas_of_the_yaml_reach_the_step(algorithm: str) -> None:
    """PPO's own eps is 1e-5; the second of two steps with the gradients g and h tells what the betas are:

    m = (b1 (1 - b1) g + (1 - b1) h) / (1 - b1^2), and v likewise of the squares with b2.
    """

    def stepped(*overrides: str) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients and values of two steps."""
        still = "regularizer=none", "algorithm.learning_rate=0.01", "algorithm.max_grad_norm=null", "network.hidden=[4]"
        learner = make_learner(f"algorithm={algorithm}", *still, *overrides)
        its, gradients = learner.state.weights["policy"], []
        values = [its.buffer.clone()]
        learner.begin_rollout(0)
        for step, batch in enumerate(random_batches(2, 1, size=64)):
            learner.update(batch, step)
            gradients.append(its.gradient.clone())
            values.append(its.buffer.clone())
        return gradients, values

    (g, _), (before, after, _) = stepped()
    eps = {"dqn": 1e-8, "ppo": 1e-5}[algorithm]
    torch.testing.assert_close(after - before, -0.01 * g / (g.abs() + eps), rtol=1e-3, atol=1e-7)

    b1, b2, eps = 0.5, 0.75, 0.01
    (g, h), (_, before, after) = stepped(f"algorithm.optimizer.eps={eps}", f"algorithm.optimizer.betas=[{b1},{b2}]")
    m = (b1 * (1 - b1) * g + (1 - b1) * h) / (1 - b1**2)
    v = (b2 * (1 - b2) * g.square() + (1 - b2) * h.square()) / (1 - b2**2)
    torch.testing.assert_close(after - before, -0.01 * m / (v.sqrt() + eps), rtol=1e-3, atol=1e-7)


def test_betas_must_be_two() -> None:
    with pytest.raises(ValueError, match="two numbers"):
        Adam(betas=(0.9,))


@pytest.mark.parametrize("limit", [None, 1.0])
@pytest.mark.parametrize("broken", [1.0, torch.nan, torch.inf])
def test_a_member_that_does_not_learn_keeps_its_values_and_has_no_moments(broken: float, limit: float | None) -> None:
    """Whatever its gradient is; the others step as they would beside any other. With nan and clipping it failed before."""
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = (Parameters({"0": values}, Adam()) for _ in range(2))
    for gradient in (torch.ones(3, 5), torch.full((3, 5), 2.0)):
        for its, member_1, learns in ((ours, broken, learning(3, 1)), (theirs, 1.0, learning(3))):
            given = gradient.clone()
            given[1] *= member_1
            its.set_gradients([given])
            its.step(0.1, learns, None if limit is None else clip_scale([its], limit))
    assert torch.equal(ours.views["0"][1], values[1])
    assert (ours.moments["exp_avg"][1] == 0).all()
    assert (ours.moments["exp_avg_sq"][1] == 0).all()
    for one, other in (
        (ours.buffer, theirs.buffer),
        *((ours.moments[n], theirs.moments[n]) for n in ("exp_avg", "exp_avg_sq")),
    ):
        assert torch.equal(one[[0, 2]], other[[0, 2]])


def test_a_member_that_is_not_active_keeps_its_moments_too() -> None:
    parameters = parameters_with(torch.ones(3, 5))
    parameters.step(0.1, learning(3))
    before = {name: moment.clone() for name, moment in parameters.moments.items()} | {"values": parameters.buffer.clone()}
    parameters.set_gradients([torch.full((3, 5), 2.0)])
    parameters.step(0.1, learning(3), active=torch.tensor([True, False, True]))
    for name, tensor in (parameters.moments | {"values": parameters.buffer}).items():
        if name not in ("step", "skipped"):
            assert torch.equal(tensor[1], before[name][1])
            assert not torch.equal(tensor[0], before[name][0])


@pytest.mark.parametrize("optimizer", [Adam(), RMSprop()])
def test_steps_that_a_member_was_not_active_in_do_not_count_among_its_own(optimizer: Adam | RMSprop) -> None:
    """Each member steps as torch's optimiser does on the gradients of the steps that it was active in.

    Were all steps counted, the young averages of one that was active in the first and the last would be taken for old ones.
    """
    active = torch.tensor([[True, True], [True, False], [True, False], [False, False], [True, True], [False, True]])
    gradients = torch.randn(len(active), 2, 5, generator=torch.Generator().manual_seed(1))
    ours = Parameters({"0": torch.zeros(2, 5)}, optimizer)
    theirs = [torch.zeros(5, requires_grad=True) for _ in range(2)]
    kinds = {Adam: torch.optim.Adam, RMSprop: lambda values, lr: torch.optim.RMSprop(values, lr=lr, eps=1e-5)}
    steppers = [kinds[type(optimizer)]([values], lr=0.1) for values in theirs]
    for gradient, its in zip(gradients, active, strict=True):
        ours.set_gradients([gradient])
        ours.step(0.1, learning(2), active=its)
        for member in its.nonzero().flatten().tolist():
            theirs[member].grad = gradient[member]
            steppers[member].step()
    torch.testing.assert_close(ours.views["0"], torch.stack([values.detach() for values in theirs]), rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- clipping


def test_each_member_is_clipped_by_its_own_norm() -> None:
    # member 0: (3, 0) and (0, 4) have the norm 5, so a fifth of each is left; member 1: (0.3, 0) and (0, 0.4) have the
    # norm 0.5, which is allowed. One norm for both would be sqrt(25.25), and would shrink member 1 to a fifth as well.
    parameters = parameters_with(torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[[0.0], [4.0]], [[0.0], [0.4]]]))
    torch.testing.assert_close(clip_scale([parameters], max_norm=1.0), torch.tensor([[0.2], [1.0]]))


def test_several_components_are_clipped_by_one_norm() -> None:
    """The same gradients in two components: (3, 0) in one and (0, 4) in the other."""
    one, other = (
        parameters_with(torch.tensor([[3.0, 0.0], [0.3, 0.0]])),
        parameters_with(torch.tensor([[0.0, 4.0], [0.0, 0.4]])),
    )
    torch.testing.assert_close(clip_scale([one, other], max_norm=1.0), torch.tensor([[0.2], [1.0]]))


def test_clipping_is_torchs_own_for_each_member() -> None:
    gradients = list(random_tensors(3, [(4, 3), (5,)]).values())
    gradients[0] *= torch.tensor([0.1, 1.0, 10.0]).view(3, 1, 1)
    scale = clip_scale([parameters_with(*gradients)], max_norm=2.5)
    for member in range(3):
        alone = [torch.zeros_like(gradient[member], requires_grad=True) for gradient in gradients]
        for tensor, gradient in zip(alone, gradients, strict=True):
            tensor.grad = gradient[member].clone()
        torch.nn.utils.clip_grad_norm_(alone, 2.5)
        for gradient, tensor in zip(gradients, alone, strict=True):
            torch.testing.assert_close(gradient[member] * scale[member].item(), tensor.grad)


def test_a_norm_that_is_allowed_changes_no_bit() -> None:
    gradients = list(random_tensors(2, [(4, 3), (5,)]).values())
    clipped, free = parameters_with(*gradients), parameters_with(*gradients)
    assert clip_scale([clipped], max_norm=1e3).tolist() == [[1.0], [1.0]]
    clipped.step(0.1, learning(2), clip_scale([clipped], max_norm=1e3))
    free.step(0.1, learning(2))
    assert torch.equal(clipped.buffer, free.buffer)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_member_that_is_not_finite_leaves_the_scale_of_the_others_alone(broken: float) -> None:
    parameters = parameters_with(torch.tensor([[3.0, 4.0], [broken, 1.0], [0.3, 0.4]]))
    torch.testing.assert_close(clip_scale([parameters], max_norm=1.0), torch.tensor([[0.2], [0.0], [1.0]]))
    assert not parameters.norms[1].isfinite()


def test_actor_and_critic_of_ppo_are_clipped_by_one_norm() -> None:
    """Their gradients together have the norm that is allowed, as Adam's first moments show, a tenth of the first gradient."""
    limit = 0.01
    learner = make_learner("algorithm=ppo", "regularizer=none", f"algorithm.max_grad_norm={limit}", members=3)
    metrics = learner.update(random_batches(1, 3, size=64)[0], env_step=0)
    norms = torch.stack([metrics[f"gradient/weights/{component}"] for component in ("policy", "critic")], dim=1)
    assert (norms.norm(dim=1) > limit).all(), "or nothing is clipped"
    moments = {c: 10 * learner.state.weights[c].moments["exp_avg"] for c in ("policy", "critic")}
    together = torch.cat([moments["policy"], moments["critic"]], dim=1).norm(dim=1)
    torch.testing.assert_close(together, torch.full((3,), limit), rtol=1e-3, atol=0)
    for index, component in enumerate(("policy", "critic")):
        share = moments[component].norm(dim=1) / limit
        torch.testing.assert_close(share, norms[:, index] / norms.norm(dim=1), rtol=1e-3, atol=0)


def test_row_norm_joins_all_of_a_member_and_nothing_else() -> None:
    assert row_norm(torch.tensor([[[1.0, 2.0], [2.0, 0.0]], [[0.0, 3.0], [0.0, 4.0]]])).tolist() == [3.0, 5.0]
