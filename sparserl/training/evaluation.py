"""How good policies are: returns of whole episodes from fixed seeds, for all members at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparserl.environments.base import Environment
from sparserl.population.members import Population
from sparserl.types import Metrics

EVALUATION_SEED = 20240313
"""The same for every run, so that policies are compared on the same episodes. Training seeds cannot meet it: its stream
of random numbers has a name of its own."""

EVALUATION = "evaluation"
"""The stream of the episodes that policies are evaluated, compared and chosen on."""
CONFIRMATION = "confirmation"
"""The stream of other episodes, for what was chosen on the first."""


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of one evaluation gave."""

    returns: Float[Tensor, "member episode"]
    constant_action: Bool[Tensor, "member"]
    """Whether the policy took one and the same action in every step of every episode."""
    failures: dict[int, str] = field(default_factory=dict)
    limited: frozenset[int] = frozenset()

    def metrics(self) -> Metrics:
        """What a row says of it."""
        return {
            "eval/return_mean": self.returns.mean(dim=1),
            "eval/return_std": self.returns.std(dim=1),
            "eval/constant_action": self.constant_action.double(),
        }


def never_interrupted() -> None:
    """What is called at every step of an evaluation where nobody wants to end it early."""


class Evaluator:
    """Plays ``episodes`` episodes for each of ``size`` members; each member meets the same starts, every time.

    Another ``stream`` has other starts. ``heed`` is called at every step, since episodes may take minutes; what it raises ends
    the evaluation.
    """

    def __init__(
        self,
        environment: Environment,
        size: int,
        episodes: int,
        device: torch.device,
        stream: str = EVALUATION,
        check_interrupt: Callable[[], object] = never_interrupted,
    ) -> None:
        members = Population((EVALUATION_SEED,) * size, device)
        self._spec = environment.spec()
        self._vector = environment.open(members.generators(stream), episodes)
        self._start = self._vector.generators.state_dict()
        self._shape = (size, episodes)
        self._check_interrupt = check_interrupt

    @torch.no_grad()
    def __call__(self, act: Callable[[Tensor, slice], Tensor]) -> Evaluation:
        """``act`` maps observations ``[member, episode, *obs]`` to actions. Sub-environment e plays episode e."""
        self._vector.generators.load_state_dict(self._start)
        observation = self._vector.reset()
        returns = torch.zeros(self._shape, dtype=torch.float64)
        running = torch.ones(self._shape, dtype=torch.bool)
        constant = torch.ones(self._shape[0], dtype=torch.bool)
        first_action: Tensor | None = None
        while running.any():
            self._check_interrupt()
            action = self._spec.clip_action(act(observation, slice(0, self._shape[0])))[0]
            if first_action is None:
                first_action = action[:, :1].clone()
            same = (action == first_action).flatten(2).all(dim=2) if action.dim() > 2 else action == first_action
            constant &= (same.cpu() | ~running).all(dim=1)
            outcome = self._vector.step(action)
            returns += outcome.reward.cpu() * running
            running &= (outcome.terminated + outcome.truncated == 0).cpu()
            observation = outcome.observation
        return Evaluation(returns, constant)

    def close(self) -> None:
        self._vector.close()


def random_returns(
    environment: Environment,
    episodes: int,
    stream: str = EVALUATION,
    check_interrupt: Callable[[], object] = never_interrupted,
) -> Float[Tensor, "episode"]:
    """The returns of a uniform random policy on the evaluation's own episodes."""
    spec, members = environment.spec(), Population((EVALUATION_SEED,))
    uniforms = members.rng("random policy")
    evaluator = Evaluator(environment, 1, episodes, members.device, stream, check_interrupt=check_interrupt)
    try:
        return evaluator(lambda *_: spec.random_action(uniforms.uniform(episodes, spec.action_draws))).returns[0]
    finally:
        evaluator.close()
