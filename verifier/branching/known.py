"""The sets of operators that networks have in common; tables of those of one operator come with the package.

An operator with parameters of its own (an Elu of another alpha, a power of 2.5) is known by these, and its table is
made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verifier.branching.tables import Consumer


def _one(kind: str, constants: tuple[tuple[int, float], ...] = (), **attrs: Any) -> Consumer:
    return Consumer(kind, tuple(sorted(attrs.items())), constants)


def _power(exponent: float) -> Consumer:
    return _one("Pow", ((1, exponent),))


PLAIN = (  # without attributes
    "Sigmoid Tanh Atan Erf Softsign Asinh Sin Cos Tan Exp Log Softplus Sqrt Reciprocal Sinh Cosh Asin Acos Atanh Acosh "
    "Mish HardSwish"
).split()

ALONE: Mapping[str, tuple[Consumer, ...]] = {
    **{kind.lower(): (_one(kind),) for kind in PLAIN},
    "gelu": (_one("Gelu", approximate="none"),),
    "gelu-tanh": (_one("Gelu", approximate="tanh"),),
    "swish": (_one("Swish", alpha=1.0),),
    "elu": (_one("Elu", alpha=1.0),),
    "celu": (_one("Celu", alpha=1.0),),
    "selu": (_one("Selu", alpha=1.6732631921768188, gamma=1.0507010221481323),),  # ONNX's defaults, as float32
    "square": (_power(2.0),),
    "cube": (_power(3.0),),
    "fourth": (_power(4.0),),
}

TOGETHER: Mapping[str, tuple[Consumer, ...]] = {
    "tanh+mul": (_one("Tanh"), _one("Mul")),
    "sigmoid+mul": (_one("Sigmoid"), _one("Mul")),
    "sin+cos": (_one("Sin"), _one("Cos")),
    "square+mul": (_power(2.0), _one("Mul")),
}

KNOWN: Mapping[str, tuple[Consumer, ...]] = {**ALONE, **TOGETHER}
