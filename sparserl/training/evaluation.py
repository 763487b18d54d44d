"""How good policies are: returns of whole episodes from fixed seeds, for all members at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sparserl.environments.base import Environment, VectorEnvironment
from sparserl.population.members import Population
from sparserl.population.random import Generators
from sparserl.types import Metrics, Weights

CPU = torch.device("cpu")

EVALUATION_SEED = 20240313
"""The same for every run, so that policies are compared on the same episodes. Training seeds cannot meet it: its streams
of random numbers have names of their own."""

EVALUATION = "evaluation"
"""The stream of the episodes that policies are evaluated, compared and chosen on."""
CONFIRMATION = "confirmation"
"""The stream of other episodes, for what was chosen on the first."""
SELECTION = "selection"
"""The stream of episodes that ranks of layers are chosen by; what was chosen is evaluated on the first."""

STATES_OF_EPISODES = 16
"""Of so many first episodes an evaluation keeps observations, at the steps 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on. Which
ones depends on the member's own policy, so a member's are those that it would have alone."""

Act = Callable[[Tensor, slice], Tensor]
"""From observations ``[member, episode, *obs]`` of the members in the slice to their actions ``[member, episode, ...]``."""

Policies = Callable[[Weights, Tensor], Tensor]
"""From the deployed weights of members and observations ``[member, episode, *obs]`` to their actions, without noise."""


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of one evaluation gave."""

    returns: Float[Tensor, "member episode"]
    """nan where a reward or an action was nan, or where the environment failed."""
    constant_action: Bool[Tensor, "member"]
    """Whether the policy took one and the same action in every step of every episode."""
    failures: dict[int, str] = field(default_factory=dict)
    """Of each member in whose episodes the environment failed, how it did in the first of them: one sentence."""
    limited: frozenset[int] = frozenset()
    """The members of whom an episode was cut by a step limit that is not the environment's own."""
    measures: dict[str, Float[Tensor, "member episode"]] = field(default_factory=dict)
    """What else the environment judges an episode by, such as ``success_rate``; nan where that is not known."""
    states: list[Shaped[Tensor, "_states *obs"]] = field(default_factory=list)
    """Of each member some observations, where the evaluator keeps them; empty elsewhere."""

    def metrics(self) -> Metrics:
        """What a row says of it."""
        # torch warns of the deviation of one number, which is nan
        deviation = self.returns.std(dim=1) if self.returns.shape[1] > 1 else torch.full_like(self.returns[:, 0], math.nan)
        return {
            "eval/return_mean": self.returns.mean(dim=1),
            "eval/return_std": deviation,
            "eval/constant_action": self.constant_action.double(),
        } | {f"eval/{name}": values.mean(dim=1) for name, values in self.measures.items()}


def never_interrupted() -> None:
    """What is called at every step of an evaluation that nothing interrupts."""


def rows_of(weights: Weights, rows: slice) -> Weights:
    """The weights of some members."""
    return {component: {name: tensor[rows] for name, tensor in layers.items()} for component, layers in weights.items()}


def episode_generators(stream: str, seed: int = EVALUATION_SEED) -> Iterator[torch.Generator]:
    """For each episode of a stream what it draws from. It depends on the episode's number, and on no other episode."""
    return (_episode(stream, episode, seed)[0] for episode in count())


def _episode(stream: str, episode: int, seed: int = EVALUATION_SEED) -> Generators:
    return _generators(f"{stream} {episode}", 1, CPU, seed)


def _generators(stream: str, number: int, device: torch.device, seed: int = EVALUATION_SEED) -> Generators:
    return Population((seed,) * number, device).generators(stream)


def _states(stream: str, episodes: slice) -> Tensor:
    """The first states ``[episode, byte]`` of the generators of some episodes."""
    return torch.cat([_episode(stream, episode).state_dict()["states"] for episode in range(episodes.start, episodes.stop)])


def _slices(number: int, most: int) -> list[slice]:
    """``number`` in pieces of ``most`` or fewer that are about as large as each other, the first a largest one."""
    size = math.ceil(number / math.ceil(number / most))
    return [slice(start, min(start + size, number)) for start in range(0, number, size)]


def _is_kept(step: int) -> bool:
    """Whether it is a power of two, three times one, or 0."""
    odd = step // (step & -step) if step else 1
    return odd in (1, 3)


@dataclass
class _Tally:
    """What an evaluation has found so far."""

    returns: Float[Tensor, "member episode"]
    constant_action: Bool[Tensor, "member"]
    measures: dict[str, Float[Tensor, "member episode"]]
    failures: dict[tuple[int, int], str] = field(default_factory=dict)
    """By member and episode."""
    limited: set[int] = field(default_factory=set)
    states: dict[int, list[Tensor]] = field(default_factory=dict)
    """By member."""
    first_action: Tensor | None = None
    """``[member, 1, number]``, in the first episode of each member that is being played."""


class Evaluator:
    """Plays ``episodes`` episodes for each of ``members`` members; each member meets the same starts, every time.

    They are played in waves, of as many sub-environments as the environment allows to live at once: all episodes of some
    members, or some episodes of one member where there are too many. Each episode draws from a generator of its own, so its
    return does not depend on what is played beside it; nor does its policy's rounding, which depends on how many episodes it is
    shown but not on how many members there are. Another ``stream`` has other starts. ``check_interrupt`` is called at every
    step, since episodes may take minutes; what it raises ends the evaluation.

    The sub-environments are opened by the first evaluation, and closed by ``close`` or by whatever ends an evaluation early.
    """

    def __init__(
        self,
        environment: Environment,
        members: int,
        episodes: int,
        device: torch.device,
        stream: str = EVALUATION,
        check_interrupt: Callable[[], object] = never_interrupted,
        keeps_states: bool = False,
    ) -> None:
        self._keeps_states = keeps_states
        self._environment, self._spec = environment, environment.spec()
        self._device, self._stream, self._check_interrupt = device, stream, check_interrupt
        at_once = environment.at_once or members * episodes
        self._columns = _slices(episodes, at_once)
        self._rows = _slices(members, at_once // self._columns[0].stop)
        self._shape = self._rows[0].stop, self._columns[0].stop  # of a wave
        self._size = members, episodes
        self._vector: VectorEnvironment | None = None

    def __call__(self, act: Act) -> Evaluation:
        """What the episodes give to members that ``act``."""
        return self.play(lambda observation, rows, _: act(observation, rows))

    def close(self) -> None:
        """Close the sub-environments. The next evaluation opens others."""
        vector, self._vector = self._vector, None
        if vector is not None:
            vector.close()

    @torch.no_grad()
    def play(self, act: Callable[[Tensor, slice, slice], Tensor]) -> Evaluation:
        """The same, for an ``act`` that is also told which episodes it is shown; at the end these may be more than count."""
        measures = {name: torch.full(self._size, math.nan) for name in self._environment.measures}
        tally = _Tally(torch.zeros(self._size, dtype=torch.float64), torch.ones(self._size[0], dtype=torch.bool), measures)
        try:
            for rows in self._rows:
                tally.first_action = None
                for columns in self._columns:
                    self._play_wave(act, rows, columns, tally)
        except BaseException:
            self.close()
            raise
        failures: dict[int, str] = {}
        for (member, _), sentence in sorted(tally.failures.items()):  # by episode, in whichever order they were played
            failures.setdefault(member, sentence)
        states = [torch.cat(tally.states[member]) for member in sorted(tally.states)]
        return Evaluation(tally.returns, tally.constant_action, failures, frozenset(tally.limited), tally.measures, states)

    def _play_wave(self, act: Callable[[Tensor, slice, slice], Tensor], rows: slice, columns: slice, tally: _Tally) -> None:
        """One wave. The last one shows as many episodes as the others, but counts only those of ``columns``."""
        members, episodes = rows.stop - rows.start, columns.stop - columns.start
        shown = slice(columns.start, columns.start + self._shape[1])
        returns, constant = tally.returns[rows, columns], tally.constant_action[rows]  # views
        running = torch.zeros(self._shape, dtype=torch.bool)
        playing = running[:members, :episodes]
        playing[:] = True
        vector = self._start(shown)
        observation, failed, step = vector.reset(), False, 0
        while running.any():
            self._check_interrupt()
            if self._keeps_states and columns.start == 0 and _is_kept(step):
                seen = observation.reshape(*self._shape, *observation.shape[2:])[:members, :STATES_OF_EPISODES].cpu()
                for row in range(members):
                    kept = seen[row, running[row, :STATES_OF_EPISODES]]  # a copy
                    tally.states.setdefault(rows.start + row, []).append(kept)
            step += 1
            action = act(observation.reshape(*self._shape, *observation.shape[2:])[:members], rows, shown)
            taken, broken = self._spec.clip_action(self._every(action))
            vector.limited.clear()
            outcome = vector.step(taken)

            flat = action[:, :episodes].flatten(2) if action.dim() > 2 else action[:, :episodes].unsqueeze(2)
            if tally.first_action is None:
                tally.first_action = flat[:, :1].clone()
            constant &= ((flat == tally.first_action).all(dim=2).cpu() | ~playing).all(dim=1)
            reward, over = outcome.reward, outcome.terminated + outcome.truncated > 0
            if self._spec.discrete_actions is None:  # no other can be nan
                reward, over = reward.masked_fill(broken.unsqueeze(1), math.nan), over | broken.unsqueeze(1)
            returns += torch.where(playing, reward.cpu().reshape(self._shape)[:members, :episodes], 0.0)
            for name, found in tally.measures.items():
                measured = outcome.measures[name].masked_fill(broken.unsqueeze(1), math.nan).cpu().reshape(self._shape)
                its = found[rows, columns]  # a view
                its[playing] = measured[:members, :episodes][playing]
            for place, sentence in outcome.failures.items():
                failed, (row, column) = True, divmod(place, self._shape[1])
                if running[row, column]:
                    tally.failures[rows.start + row, columns.start + column] = sentence
            for place in vector.limited:
                row, column = divmod(place, self._shape[1])
                if running[row, column]:
                    tally.limited.add(rows.start + row)
            running &= ~over.cpu().reshape(self._shape)
            observation = outcome.observation
        if failed:
            self.close()  # an environment that failed plays no more, and the next wave needs all

    def _start(self, shown: slice) -> VectorEnvironment:
        """The sub-environments, each a member with an episode's generator, so that one does not depend on another."""
        members, episodes = self._shape
        if self._vector is None:
            generators = _generators(self._stream, members * episodes, self._device)
            self._vector = self._environment.open(generators, 1)
            self._vector.autoreset = False
        self._vector.generators.load_state_dict({"states": _states(self._stream, shown).repeat(members, 1)})
        return self._vector

    def _every(self, action: Tensor) -> Tensor:
        """The actions ``[member, episode, ...]`` of a wave as those of all sub-environments ``[place, 1, ...]``."""
        if len(action) < self._shape[0]:
            action = torch.cat([action, action[:1].expand(self._shape[0] - len(action), *action.shape[1:])])
        return action.flatten(0, 1).unsqueeze(1)


def random_returns(
    environment: Environment,
    episodes: int,
    stream: str = EVALUATION,
    check_interrupt: Callable[[], object] = never_interrupted,
) -> Float[Tensor, "episode"]:
    """The returns of a uniform random policy on the episodes of an Evaluator, which it draws its actions for one by one."""
    spec = environment.spec()
    drawing: dict[int, Generators] = {}

    def act(_: Tensor, __: slice, shown: slice) -> Tensor:
        if shown.start not in drawing:
            drawing.clear()  # of the wave before
            drawing[shown.start] = _generators(stream, shown.stop - shown.start, CPU)
            drawing[shown.start].load_state_dict({"states": _states(f"{stream}: random policy", shown)})
        return spec.random_action(drawing[shown.start].uniform(1, spec.action_draws)).transpose(0, 1)

    with closing(Evaluator(environment, 1, episodes, CPU, stream, check_interrupt)) as evaluator:
        return evaluator.play(act).returns[0]
