"""Build the application for Ray Serve: `import_path: service.ray_serve.application:build`."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from service.ray_serve.arguments import Arguments
from service.ray_serve.ingress import Ingress
from service.ray_serve.inspector import inspector_class


def build(args: dict[str, Any]) -> Application:
    """Return the application: `Ingress`, which has the whole service, and `Inspector`, which runs graphs.

    Args:
        args: `args` of the application in the configuration file; see `Arguments`.

    Raises:
        ValidationError: An argument is unknown or not valid.
    """
    arguments = Arguments.model_validate(args)
    inspector: Deployment = serve.deployment(name="Inspector")(inspector_class(arguments.graphs_per_inspector))
    ingress: Deployment = serve.deployment(name="Ingress")(Ingress)
    return ingress.bind(inspector.bind(), arguments)
