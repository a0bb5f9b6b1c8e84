"""shim until LOSS merges"""

from cusa_jax import temperatures as t

Scalar = t.Temperature


def specifications(loss):
    return {f"tau_{k}": v for k, v in t.temperatures(loss).items()}


init = t.init
clamp = t.clamp
