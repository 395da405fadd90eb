"""The methods that `--method` offers. A new one is a file here and a line below."""

from __future__ import annotations

from training.config import FitConfig
from training.errors import UnknownMethod
from training.methods.base import Method
from training.methods.drd import DualReverseDistillation
from training.teachers import Teacher

METHODS: dict[str, type[DualReverseDistillation]] = {
    DualReverseDistillation.name: DualReverseDistillation,
}


def build_method(config: FitConfig, teacher: Teacher) -> Method:
    """Builds an untrained method with the weights that the torch seed of the moment gives.

    Raises:
        UnknownMethod: `config.method` is not registered.
    """
    if config.method not in METHODS:
        raise UnknownMethod(config.method, METHODS)
    return METHODS[config.method].build(teacher, config.options)
