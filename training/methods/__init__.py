"""The methods that `--method` offers. A new one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.config import FitConfig
from training.errors import UnknownMethod, WrongTeachers
from training.methods.base import Method
from training.methods.drd import DualReverseDistillation
from training.methods.dual_teacher import DualTeacherDistillation
from training.methods.nnet import NNet
from training.methods.rstpm import TwoStudents
from training.teachers import Teacher

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (DualReverseDistillation, DualTeacherDistillation, NNet, TwoStudents)
}


def method_class(name: str) -> type[Method]:
    """The class behind a name.

    Raises:
        UnknownMethod: it is not registered.
    """
    if name not in METHODS:
        raise UnknownMethod(name, METHODS)
    return METHODS[name]


def fit_config(method: str = FitConfig.method, **chosen: Any) -> FitConfig:
    """The settings of a run: what is chosen, else what the method recommends, else the general defaults.

    Args:
        method: registry name.
        chosen: settings of `FitConfig`; None stands for "not chosen".

    Raises:
        UnknownMethod: the method is not registered.
        InvalidFitConfig: a setting is out of range.
    """
    kind = method_class(method)
    settings = {name: value for name, value in chosen.items() if value is not None}
    settings.setdefault("teachers", kind.default_teachers)
    return FitConfig(method=method, **{**kind.recommended, **settings})


def build_method(config: FitConfig, teachers: Sequence[Teacher]) -> Method:
    """Builds an untrained method with the weights that the torch seed of the moment gives.

    Raises:
        UnknownMethod: `config.method` is not registered.
        WrongTeachers: it wants another number of teachers.
        InvalidFitConfig: an option is unknown.
    """
    kind = method_class(config.method)
    if len(teachers) != len(kind.default_teachers):
        raise WrongTeachers(config.method, kind.default_teachers, [teacher.name for teacher in teachers])
    return kind.build(teachers, config.options)
