"""Ablations: what replaces an ablated head, exactly.

For a head with attention weights A and values v, z = A v is its output before the output projection W_O.

========== ============================================= =============================================
ablation   A becomes                                     z becomes
========== ============================================= =============================================
`zero`     0                                             0
`uniform`  equal weight on every token the query may see mean of v over those tokens
`cls`      every row = class token                       v of the class token, at every query
`mean`     -                                             the head's mean output over a calibration set
========== ============================================= =============================================

Lin et al. 2025 (arXiv 2507.00537) act on post-softmax attention weights without publishing the value; the rule is
therefore an explicit, recorded choice here, and `zero` the default because it costs nothing at inference.

All that is particular to an ablation is in its class. Files, settings and fingerprints have its name; `ABLATIONS` finds
the object.
"""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from headmask.errors import AblationError, one_of

if TYPE_CHECKING:
    from torch import Tensor

    from headmask.attention.heads import Attended, HeadAttention
    from headmask.attention.values import Values

# B batch, H heads, h ablated heads, Q queries, d width of one head


class Ablation(ABC):
    """What replaces the output z of an ablated head, and what of it can be written into weights."""

    name: ClassVar[str]
    """The name in mask files, settings and fingerprints."""
    needs_means: ClassVar[bool] = False
    """Whether it needs the heads' mean outputs, calibrated on the search split."""
    needs_class_token: ClassVar[bool] = False
    """Whether it is undefined for towers without a class token."""

    def of_values(self, values: Values) -> Tensor | None:
        """Return what is kept of a layer's values for `replacement` (B, H, 1 or Q, d); None where it needs none."""
        return None

    def replacement(self, attended: Attended, heads: list[int], means_Hd: Tensor | None) -> Tensor | None:
        """Return what takes the place of some heads' z, broadcast to (B, h, Q, d); by default what `of_values` kept.

        None stands for zero, which is cheaper than a tensor of zeros.

        Args:
            attended: z of all heads of a layer, and what `of_values` kept.
            heads: the heads that are replaced.
            means_Hd: the layer's calibrated means, where there are any.
        """
        kept_BhQd = attended.kept_of(heads)
        if kept_BhQd is None:
            raise AblationError(f"what ablation {self.name} puts in place of a head was not kept")
        return kept_BhQd

    def check(self, *, has_class_token: bool, means: object | None) -> None:
        """Check that the ablation is defined for a tower.

        Raises:
            AblationError: it needs a class token, or calibrated means, and there are none.
        """
        if self.needs_class_token and not has_class_token:
            raise AblationError(
                f"ablation {self.name} needs a class token, and this tower has none; use zero, mean or uniform"
            )
        if self.needs_means and means is None:
            raise self._no_means()

    def why_not_folded(self, attention: HeadAttention, tower: str, scale: float = 0.0) -> str | None:
        """Return why no weights of an attention module equal it with a scaled head; None where `fold` writes them."""
        return f"ablation {self.name} does not fold into weights; use it live, or search with zero, mean or uniform"

    def fold(self, attention: HeadAttention, head: int, mean_d: Tensor | None, scale: float = 0.0) -> None:
        """Write a scaled head into the weights of its attention module, in place; a scale of 0 ablates it."""
        raise NotImplementedError(f"ablation {self.name} does not fold into weights")

    def why_not_pruned(self) -> str | None:
        """Return why a folded head's rows and columns cannot be taken out; None where they can."""
        return f"ablation {self.name} cannot be pruned: it still needs the head's values; use zero or mean"

    def _no_means(self) -> AblationError:
        return AblationError(
            f"ablation {self.name} needs the heads' mean outputs; make them with headmask.calibrate_means"
        )


class Zero(Ablation):
    """Nothing: the head's output is 0."""

    name = "zero"

    def replacement(self, attended: Attended, heads: list[int], means_Hd: Tensor | None) -> None:
        """Return None, for zero."""

    def why_not_folded(self, attention: HeadAttention, tower: str, scale: float = 0.0) -> str | None:
        """Return None: it folds."""
        return None

    def fold(self, attention: HeadAttention, head: int, mean_d: Tensor | None, scale: float = 0.0) -> None:
        """Multiply the head's columns of W_O."""
        _multiply_columns(attention, head, scale)

    def why_not_pruned(self) -> str | None:
        """Return None: nothing of the head is needed."""
        return None


class Mean(Ablation):
    """The head's mean output over a calibration set, one vector for all positions."""

    name = "mean"
    needs_means = True

    def replacement(self, attended: Attended, heads: list[int], means_Hd: Tensor | None) -> Tensor:
        """Return the heads' means."""
        if means_Hd is None:
            raise self._no_means()
        return means_Hd[heads][None, :, None].to(attended.z_BHQd)

    def why_not_folded(self, attention: HeadAttention, tower: str, scale: float = 0.0) -> str | None:
        """Return that the output bias is missing, where it is."""
        has_bias = attention.out_proj.bias is not None
        return None if has_bias else "ablation mean folds into the output bias, and this tower has none"

    def fold(self, attention: HeadAttention, head: int, mean_d: Tensor | None, scale: float = 0.0) -> None:
        """Add the constant output to b_O, and multiply the head's columns of W_O."""
        weight, columns, scale_H = attention.out_proj.weight, attention.columns(head), attention.head_scale_H
        if mean_d is None:
            raise self._no_means()
        scaled_d = mean_d.to(weight) * (1 if scale_H is None else scale_H[head])
        attention.out_proj.bias.add_(weight[:, columns] @ scaled_d, alpha=1 - scale)
        _multiply_columns(attention, head, scale)

    def why_not_pruned(self) -> str | None:
        """Return None: the constant is in the output bias."""
        return None


class Uniform(Ablation):
    """The head's mean value over the tokens that the query may see."""

    name = "uniform"

    def of_values(self, values: Values) -> Tensor:
        """Return the mean of the values."""
        return values.mean()

    def why_not_folded(self, attention: HeadAttention, tower: str, scale: float = 0.0) -> str | None:
        """Return that a zero query row gives no uniform attention, where it does not, or that only a part is wanted."""
        if scale != 0:
            return "ablation uniform folds for scales of 0 and 1 only: no query rows give a part of uniform attention"
        if tower != "image":
            return "ablation uniform folds into image towers only; a causal mask needs z itself"
        if attention.normalises_query:
            return "this tower normalises its queries: a zero query row does not give uniform attention"
        return None

    def fold(self, attention: HeadAttention, head: int, mean_d: Tensor | None, scale: float = 0.0) -> None:
        """Clear the head's query rows, so that every token weighs the same."""
        for parameter in attention.query_parameters():
            parameter[attention.columns(head)] = 0

    def why_not_pruned(self) -> str | None:
        """Return that values are needed, and that folding works."""
        return f"{super().why_not_pruned()}, or fold it"


class Cls(Ablation):
    """The head's value at the class token, at every query."""

    name = "cls"
    needs_class_token = True

    def of_values(self, values: Values) -> Tensor:
        """Return the value of the class token."""
        return values.at(0)


def _multiply_columns(attention: HeadAttention, head: int, scale: float) -> None:
    columns = attention.out_proj.weight[:, attention.columns(head)]
    # Not by multiplication, which leaves a negative zero of a negative weight.
    columns.zero_() if scale == 0 else columns.mul_(scale)


ABLATIONS: dict[str, Ablation] = {each.name: each for each in (Zero(), Mean(), Uniform(), Cls())}
"""By name, in the order in which they are listed."""
ZERO = ABLATIONS[Zero.name]
"""The default."""


def find_ablation(name: str) -> Ablation:
    """Return the ablation of a name.

    Raises:
        AblationError: there is none.
    """
    if name not in ABLATIONS:
        raise AblationError(f"ablation must be one of {', '.join(ABLATIONS)}; got {name!r}")
    return ABLATIONS[name]


def _known(name: Any) -> str:
    if isinstance(name, str) and name in ABLATIONS:
        return name
    raise PydanticCustomError("literal_error", f"Input should be {one_of(ABLATIONS)}")


AblationName = Annotated[str, PlainValidator(_known), WithJsonSchema({"enum": list(ABLATIONS), "type": "string"})]
"""The name of an ablation, in models of files and settings."""
