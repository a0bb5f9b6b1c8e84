"""FLOPs that a function asks for, counted in its jaxpr: of the mathematics, whatever device and compiler do with it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of the matrix products and convolutions of one call over all devices; 2 for a product and its sum.

    XLA's own count knows nothing of fused kernels, counts the body of a loop once, and is missing on some devices.
    A loop counts as often as it is taken; NaN where that depends on what is computed. Of branches the most expensive
    counts; what is computed again (`remat`) counts again. arguments: arrays or ShapeDtypeStructs.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> float:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inside(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "while":
        return math.nan if any(inner) else 0
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return params["mesh"].size * sum(inner)
    return sum(inner)


def _of_product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)


def _of_convolution(equation: Any) -> float:
    """As if it read no padding; the zeros between the numbers of a dilated input are no work."""
    kernel, out = equation.invars[1].aval, equation.outvars[0].aval
    out_features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * out.size * kernel.size / out_features / math.prod(equation.params["lhs_dilation"])


def _inside(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
