"""Random numbers of every member, each from generators of its own."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparserl.population.state import State


class Generators:
    """One torch generator for each member, all of one named stream.

    Streams (``environment``, ``exploration``, ``replay``, ``gates``, ``init`` …) are independent, so that a new draw in
    one leaves the others as they were.
    """

    def __init__(self, seeds: Sequence[int], stream: str, device: torch.device) -> None:
        self.device = device
        self._generators = [_generator(seed, stream) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def __getitem__(self, member: int) -> torch.Generator:
        return self._generators[member]

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), ``[member, *shape]``, each member's from its own generator."""
        return self._fill(Tensor.uniform_, shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``[member, *shape]``, each member's from its own generator."""
        return self._fill(Tensor.normal_, shape)

    def integers(self, *shape: int) -> Tensor:
        """Uniform whole numbers in [0, 2**63), ``[member, *shape]`` int64, each member's from its own generator."""
        return self._fill(Tensor.random_, shape, torch.int64)

    def _fill(self, fill: Callable[..., Tensor], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers are drawn on the CPU whatever the device, so that a run does not depend on where it runs."""
        numbers = torch.empty(len(self), *shape, dtype=dtype)
        for slice_, generator in zip(numbers, self._generators, strict=True):
            fill(slice_, generator=generator)
        return numbers.to(self.device)

    def state_dict(self) -> State:
        return {"states": torch.stack([generator.get_state() for generator in self._generators])}

    def load_state_dict(self, state: State) -> None:
        for generator, saved in zip(self._generators, state["states"], strict=True):
            generator.set_state(saved.cpu().clone())  # torch 2.13 reads the storage from its start: a row is not enough


_WORDS = slice(24, 24 + 624 * 8)
"""Where the state of torch's generator on a CPU, a Mersenne Twister, has its 624 words of 32 bits, each in eight bytes."""


def _generator(seed: int, stream: str) -> torch.Generator:
    """A generator whose 624 words all follow from the seed and the stream."""
    return torch.Generator().set_state(_first_state(seed, stream))


@lru_cache(maxsize=1024)
def _first_state(seed: int, stream: str) -> Tensor:
    """The state of a generator before it draws; not to be written to. Kept, since each evaluation begins the same episodes.

    ``manual_seed`` takes 32 bits of a seed, whatever it is given: of 77,000 streams two would be equal with a chance of one
    half. What is drawn is what NumPy's MT19937 draws from the same SeedSequence after its first number.
    """
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(zlib.crc32(stream.encode()),))
    words: Any = np.random.MT19937(sequence).state["state"]
    generator = torch.Generator().manual_seed(int(words["key"][-1]))  # only so that ``initial_seed`` tells streams apart
    state = generator.get_state()
    state.numpy()[_WORDS].view(np.uint64)[:] = words["key"]
    return state


class MemberRng:
    """Uniform, normal and whole numbers of every member, handed out in small pieces and drawn in blocks.

    Actions and replay indices need a handful of numbers a step; one draw for each member and step would cost more than
    the network. A block holds the same for every member, so all members use it up at the same time.
    """

    def __init__(self, generators: Generators) -> None:
        self._generators = generators
        self._uniforms, self._normals = _Block(generators.uniform), _Block(generators.normal)
        self._integers = _Block(generators.integers)

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self._generators.device

    def uniform(self, *shape: int) -> Tensor:
        """The next numbers in [0, 1), ``[member, *shape]``. A shape larger than a block gets a larger block."""
        return self._uniforms.take(shape)

    def normal(self, *shape: int) -> Tensor:
        """The next standard normal numbers, ``[member, *shape]``."""
        return self._normals.take(shape)

    def below(self, bound: int, *shape: int) -> Tensor:
        """The next whole numbers in [0, bound), ``[member, *shape]`` int64.

        Uniform but for a bound / 2**63: a uniform float32 has 2**24 values and would prefer some places of a large ring.
        """
        return self._integers.take(shape) % bound

    def uniforms(self, times: int, *shape: int) -> Tensor:
        """What ``uniform`` gives so many times, one behind another, ``[time, member, *shape]``."""
        return self._uniforms.take_times(times, shape)

    def normals(self, times: int, *shape: int) -> Tensor:
        """What ``normal`` gives so many times, one behind another, ``[time, member, *shape]``."""
        return self._normals.take_times(times, shape)

    def below_each(self, bounds: Sequence[int], *shape: int) -> Tensor:
        """What ``below`` gives for one bound after another, ``[bound, member, *shape]``."""
        found = self._integers.take_times(len(bounds), shape)
        return found % found.new_tensor(bounds).view(-1, *[1] * (found.dim() - 1))

    def state_dict(self) -> State:
        return {
            "generators": self._generators.state_dict(),
            "uniforms": self._uniforms.state_dict(),
            "normals": self._normals.state_dict(),
            "integers": self._integers.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self._generators.load_state_dict(state["generators"])
        self._uniforms.load_state_dict(state["uniforms"])
        self._normals.load_state_dict(state["normals"])
        self._integers.load_state_dict(state["integers"])


class SharedDraws:
    """Numbers that are drawn once for all members, and of which several takers are each handed their own members' part.

    Each taker asks for the same in the same order.
    """

    def __init__(self, rng: MemberRng) -> None:
        self._rng = rng
        self._drawn: list[Tensor] = []

    def of(self, members: slice) -> MemberRng:
        """What hands out the part of some members, from the first draw on."""
        return _PartOfDraws(self, members)

    def take(self, number: int, draw: Callable[[MemberRng], Tensor]) -> Tensor:
        """The draw of this number, of all members; the first taker makes it."""
        if number == len(self._drawn):
            self._drawn.append(draw(self._rng))
        return self._drawn[number]


class _PartOfDraws(MemberRng):
    def __init__(self, shared: SharedDraws, members: slice) -> None:
        self._shared, self._members, self._taken = shared, members, 0

    def _take(self, draw: Callable[[MemberRng], Tensor]) -> Tensor:
        self._taken += 1
        return self._shared.take(self._taken - 1, draw)[self._members]

    @property
    def device(self) -> torch.device:
        return self._shared._rng.device  # noqa: SLF001 (one is part of the other)

    def uniform(self, *shape: int) -> Tensor:
        return self._take(lambda rng: rng.uniform(*shape))

    def normal(self, *shape: int) -> Tensor:
        return self._take(lambda rng: rng.normal(*shape))

    def below(self, bound: int, *shape: int) -> Tensor:
        return self._take(lambda rng: rng.below(bound, *shape))

    # another taker may ask for other times at once

    def uniforms(self, times: int, *shape: int) -> Tensor:
        return torch.stack([self.uniform(*shape) for _ in range(times)])

    def normals(self, times: int, *shape: int) -> Tensor:
        return torch.stack([self.normal(*shape) for _ in range(times)])


class _Block:
    """Numbers of one kind that are drawn and not yet used."""

    size = 8192

    def __init__(self, draw: Callable[..., Tensor]) -> None:
        self._draw = draw
        self._numbers = draw(0)
        self._used = 0

    def take(self, shape: Sequence[int]) -> Tensor:
        count = math.prod(shape)
        if self._used + count > self._numbers.shape[1]:
            self._numbers = self._draw(max(self.size, count))
            self._used = 0
        numbers = self._numbers[:, self._used : self._used + count]
        self._used += count
        return numbers.reshape(len(self._numbers), *shape)

    def take_times(self, times: int, shape: Sequence[int]) -> Tensor:
        """What ``take`` gives so many times, ``[time, member, *shape]``."""
        count, found = math.prod(shape), list[Tensor]()
        while times:
            whole = min(times, (self._numbers.shape[1] - self._used) // count) or 1
            found.append(self.take((whole, *shape)).transpose(0, 1))
            times -= whole
        return torch.cat(found)

    def state_dict(self) -> State:
        return {"numbers": self._numbers, "used": self._used}

    def load_state_dict(self, state: State) -> None:
        self._numbers, self._used = state["numbers"].to(self._numbers.device), state["used"]
