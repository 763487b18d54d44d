"""L0 regularisation: a hard-concrete gate for each weight (Louizos, Welling, Kingma 2018, arXiv 1712.01312).

A weight runs as ``w * z``, and the penalty is the expected number of open gates.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparserl.regularizers.base import member_sums, regularized
from sparserl.regularizers.hard_concrete import HardConcrete
from sparserl.types import Layers


@dataclass(frozen=True, kw_only=True)
class L0(HardConcrete):
    """Gates have the names and shapes of the weights.

    Keys (``make docs`` copies them from ``conf/regularizer/l0.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this count as zero in ``sparsity_thresholded``; the gates make
            exact zeros without it.
        lambda_c (number, at least 0; per member): Coefficient of the penalty, the expected share (or number) of open gates. 1
            is for a loss of about 1, as PPO's and A2C's are: of 0.03, 0.1, 0.3 and 1 with PPO on CartPole, each on two seeds,
            it closed the most gates (83 and 89 %), and all kept a return of 500. Where the loss is larger, a tuned file has the
            value: conf/tuned/dqn-cartpole-l0.yaml.
        lambda_c_critic (number, at least 0 or ``null``; per member): The same for critics, which scope=all regularises too:
            published sparse critics keep more weights than actors. null is lambda_c.
        target_sparsity (number, at least 0, below 1 or ``null``; per member): The share of numbers that is not to be stored in
            the end, 0 to below 1: lambda_c is then multiplied by a factor that gradient ascent changes until the share is
            reached; when gates are frozen, or training ends before, they are shifted to it. null leaves it to lambda_c.
        beta (number, above 0; per member): Temperature of the gates, above 0 (2/3 in Louizos et al. 2018): the lower, the more
            a gate is either open or closed.
        scope (``policy``, ``all``): Whose weights have gates: policy, or all (critics too).
        reduction (``mean``, ``sum``): The penalty is the mean over the gated weights, so lambda_c means the same for every
            network, or their sum.
        delay_steps (integer, at least 0): Environment steps of each member until the gates begin to move: until then they run
            hardened and without a penalty.
        ramp_steps (integer, at least 0): Environment steps of each member in which lambda_c then grows from 0 to its value.
        freeze_at_step (integer, at least 0 or ``null``): Environment steps of each member after which the gates are frozen:
            they run hardened and the weights that are left train on without noise. null never freezes them.
        initial_open (number, above 0, below 1): sigmoid(log_alpha) of every gate at the start, between 0 and 1.
        gate_learning_rate (number or schedule, at least 0): Learning rate of Adam for the gates, by environment steps (a number
            is a constant): much higher than the weights', or they hardly move.
        max_gate_grad_norm (number, above 0 or ``null``): Largest norm of a member's gradient in its gates; null leaves it.
        log_alpha_limit (number, above 0): log_alpha is kept between minus this and this.
        deterministic_gate (``sigmoid``, ``median``): The gate without noise: sigmoid (the stretched sigmoid of log_alpha,
            Louizos et al., no temperature) or median (of the random gate, with the temperature).
    """

    def shapes(self, layers: Layers) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape[1:]) for name, weight in regularized(layers).items()}

    def stored(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        return member_sums(list(is_open.values()))
