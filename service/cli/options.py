"""Options that several commands share, and the settings that they make."""

from __future__ import annotations

import inspect as signatures
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from service.cli.console import ERR, USAGE, refuse, shown
from service.schemas.violations import list_violations
from service.settings import PREFIX, Settings

if TYPE_CHECKING:
    from plumbline_client import PlumblineClientError

CLIENT_URL, CLIENT_KEY, CLIENT_CA_FILE = f"{PREFIX}URL", f"{PREFIX}API_KEY", f"{PREFIX}CA_FILE"
CLIENT_VARIABLES = frozenset({CLIENT_URL, CLIENT_KEY, CLIENT_CA_FILE})
"""Environment variables of commands that are clients of the service. They are not among its settings."""

Url = Annotated[str, typer.Option(help="URL of the service.", envvar=CLIENT_URL)]
ApiKey = Annotated[
    str | None,
    typer.Option(
        help="API key. Prefer the environment variable: other users of the machine see the options of a command.",
        envvar=CLIENT_KEY,
        show_envvar=True,
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(help="PEM file with the CA certificate of the service, for HTTPS.", envvar=CLIENT_CA_FILE),
]

Models = Annotated[Path | None, typer.Option(help="Folder of the model repository.", envvar=f"{PREFIX}MODELS")]
Data = Annotated[Path | None, typer.Option(help="Data folder of the service.", envvar=f"{PREFIX}DATA")]
Provider = Annotated[
    str | None,
    typer.Option(
        help="Execution provider: auto, cuda, tensorrt, openvino or cpu.",
        envvar=f"{PREFIX}PROVIDER",
        metavar="PROVIDER",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def client_message(error: PlumblineClientError) -> str:
    """Return the message of an error of the client, with the options of the commands where credentials are missing."""
    from plumbline_client import ServiceProblem

    if not isinstance(error, ServiceProblem):
        return str(error)
    detail = error.detail or str(error)
    if error.slug not in {"not-authenticated", "invalid-key"}:
        return detail
    return f"{detail} For this command, set {CLIENT_KEY} or give --api-key."


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Give a command one option per setting, with the documentation of the setting.

    The options are text, so that `Settings` validates values from the command line and from the environment alike.
    """

    def run(**options: str | None) -> None:
        command(load_settings(**options))

    parameters = []
    for name, field in Settings.model_fields.items():
        option = typer.Option(
            help=(field.description or "").replace("\n", " "),
            show_default=str(field.default) if field.default and field.default != frozenset() else False,
            envvar=f"{PREFIX}{name}".upper(),
            metavar=name.split("_")[-1].upper(),
        )
        parameters.append(
            signatures.Parameter(
                name, signatures.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )
        )
    run.__signature__ = signatures.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def load_settings(**options: Any) -> Settings:
    """Return the settings: options that are not None, then the environment, then defaults.

    Prints what is not valid and ends the command with the exit code for wrong usage.
    """
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for item in list_violations(error, Settings):
            path = ".".join(str(part) for part in item["loc"])
            name = _given_name(path, options.get(path)) if path else "Settings"
            ERR.print(f"[red]{name}[/]: {shown(item['msg'])}", soft_wrap=True)
        raise typer.Exit(USAGE) from error


def place_of_bundles(settings: Settings) -> str:
    """Return where the bundles are, with an article."""
    if settings.bundle_store:
        return f"the bundle store {settings.bundle_store}"
    return f"the model repository {settings.models}"


def require_models(settings: Settings) -> None:
    """End the command with the exit code for wrong usage if the model repository does not exist."""
    if not settings.bundle_store and not settings.models.is_dir():
        refuse(
            f"The model repository {settings.models} does not exist. Give the folder that holds the products with "
            f"--models or {PREFIX}MODELS."
        )


def _given_name(setting: str, option: object) -> str:
    """Return the name under which the user gave a setting: the option, or otherwise the environment variable.

    An option that was not given has the value of its environment variable, or None.
    """
    variable = f"{PREFIX}{setting}".upper()
    return variable if option is None or str(option) == os.environ.get(variable) else f"--{setting.replace('_', '-')}"
