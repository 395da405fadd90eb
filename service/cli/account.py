"""`plumbline account`: accounts of people, in the database, with or without a running service."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer
from rich.markup import escape

from service.cli.console import ERR, OUT, make_table, refuse, utc
from service.cli.credentials import (
    FIRST,
    CreateDatabase,
    credential_database,
    credential_database_for_reading,
    operator,
    report_database,
)
from service.cli.options import AsJson, Data

app = typer.Typer(help="Manage the accounts of people.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the account. Existing accounts can be given by their id as well.")]
RoleOption = Annotated[
    Literal["operator", "engineer", "admin"],
    typer.Option(
        "--role", help="operator: inspect and review. engineer: also change recipes and bundles. admin: everything."
    ),
]


@app.command()
def create(
    name: Name,
    role: RoleOption,
    create_database: CreateDatabase = False,
    data: Data = None,
) -> None:
    """Create an account. The password is asked for, or read from the first line of standard input.

    If it is the first account and there is no key, the service requires credentials of every request within a second.
    """
    from service.access.accounts import create_account
    from service.store.access import has_credentials

    with credential_database(data, create=create_database) as engine:
        is_first = not has_credentials(engine)
        account = create_account(engine, name, role, _password(), operator())
        report_database(engine)
    OUT.print(f"The account {escape(account.name)} was created with the role {role}.", soft_wrap=True)
    if is_first:
        ERR.print(FIRST, soft_wrap=True)


@app.command("list")
def list_(data: Data = None, as_json: AsJson = False) -> None:
    """List all accounts."""
    from service.access.accounts import all_accounts

    with credential_database_for_reading(data) as engine:
        accounts = all_accounts(engine)
    if as_json:
        facts = [
            {
                "id": account.id,
                "name": account.name,
                "role": account.role,
                "created_at": account.created_at.isoformat(),
                "disabled_at": None if account.disabled_at is None else account.disabled_at.isoformat(),
                "last_login_at": None if account.last_login_at is None else account.last_login_at.isoformat(),
            }
            for account in accounts
        ]
        typer.echo(json.dumps(facts, indent=2))
        return
    # Ids, names and roles are never folded; the times of creation are in the JSON output.
    table = make_table("id", "name", "role", "last log-in", "state", ids=frozenset({"id", "name", "role"}))
    for account in accounts:
        state = "[green]enabled[/]" if account.disabled_at is None else f"[red]disabled[/] {utc(account.disabled_at)}"
        table.add_row(account.id, escape(account.name), account.role, utc(account.last_login_at), state)
    OUT.print(table)


@app.command("set-password")
def set_password(name: Name, data: Data = None) -> None:
    """Set a new password. All sessions of the account end; an account that was disabled is enabled again."""
    from service.access.accounts import set_password as change

    with credential_database(data) as engine:
        change(engine, name, _password(), operator())
    OUT.print(f"The password of {escape(name)} was changed, and all its sessions have ended.", soft_wrap=True)


@app.command()
def disable(name: Name, data: Data = None) -> None:
    """Disable an account and end all its sessions. `enable` or `set-password` enables it again."""
    from service.access.accounts import disable as change

    with credential_database(data) as engine:
        change(engine, name, operator())
    OUT.print(f"The account {escape(name)} is disabled.", soft_wrap=True)


@app.command()
def enable(name: Name, data: Data = None) -> None:
    """Enable an account that was disabled. Its password stays the same."""
    from service.access.accounts import enable as change

    with credential_database(data) as engine:
        change(engine, name, operator())
    OUT.print(f"The account {escape(name)} is enabled.", soft_wrap=True)


@app.command("set-role")
def set_role(name: Name, role: RoleOption, data: Data = None) -> None:
    """Give an account another role, and end all its sessions."""
    from service.access.accounts import set_role as change

    with credential_database(data) as engine:
        change(engine, name, role, operator())
    OUT.print(f"The account {escape(name)} has the role {role}.", soft_wrap=True)


def _password() -> str:
    """Return the password. It is never an argument, because all users of a machine can read those."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        refuse("Standard input contains no password. Write it on the first line.")
    return password
