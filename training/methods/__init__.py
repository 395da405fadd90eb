"""The registry of methods behind `--method`. A new method is a module here and an entry in `METHODS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.config import FitConfig
from training.errors import InvalidFitConfig, UnknownMethod, WrongTeachers
from training.methods.base import Method
from training.methods.drd import DualReverseDistillation
from training.methods.dual_teacher import DualTeacherDistillation
from training.methods.nnet import NNet
from training.methods.rstpm import RSTPM
from training.teachers import Teacher

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (DualReverseDistillation, DualTeacherDistillation, NNet, RSTPM)
}


def method_class(name: str) -> type[Method]:
    """Return the class registered under a name.

    Raises:
        UnknownMethod: The name is not registered.
    """
    if name not in METHODS:
        raise UnknownMethod(name, METHODS)
    return METHODS[name]


def fit_config(method: str = FitConfig.method, *, quick: bool = False, **chosen: Any) -> FitConfig:
    """Combine the chosen settings with the method's recommendations and the general defaults, in this order.

    Args:
        method: Registry name.
        quick: Use the options of the method's quick variant.
        **chosen: fields of `FitConfig`; None stands for "not chosen".

    Returns:
        The settings of a run.

    Raises:
        UnknownMethod: The method is not registered.
        InvalidFitConfig: A setting is out of range, or the method has no quick variant.
    """
    kind = method_class(method)
    settings = {name: value for name, value in chosen.items() if value is not None}
    if quick:
        if kind.quick is None:
            having = ", ".join(name for name, other in sorted(METHODS.items()) if other.quick is not None)
            raise InvalidFitConfig(f"method {method!r} has no variant without training steps; {having} has one.")
        settings["options"] = {**kind.quick, **settings.get("options", {})}
    settings.setdefault("teachers", kind.default_teachers)
    return FitConfig(method=method, **{**kind.recommended, **settings})


def build_method(config: FitConfig, teachers: Sequence[Teacher]) -> Method:
    """Build an untrained method; its weights depend on the state of torch's global generator.

    Args:
        config: The method and its options.
        teachers: The frozen teachers, as many as the method requires.

    Returns:
        The untrained method.

    Raises:
        UnknownMethod: `config.method` is not registered.
        WrongTeachers: The method requires another number of teachers.
        InvalidFitConfig: An option is unknown or has another type, or there are no steps for a method that learns.
    """
    kind = method_class(config.method)
    if len(teachers) != len(kind.default_teachers):
        raise WrongTeachers(config.method, kind.default_teachers, [teacher.name for teacher in teachers])
    method = kind.build(teachers, config.options)
    if method.learns and config.iterations < 1:
        raise InvalidFitConfig(
            f"iterations is {config.iterations}; expected at least 1, because {config.method} learns."
        )
    return method
