"""Accounts of people."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path

from service.access import accounts
from service.access.errors import AccountExists, AccountRefused, UnknownAccount
from service.api.deps import AccessDep, ActorDep
from service.api.http.access import requires
from service.api.http.body_limit import CREDENTIALS, limit_body
from service.api.http.problems import problem_responses
from service.errors import BodyTooLarge, InvalidRequest
from service.schemas.access import Account, AccountList, AccountRequest, PasswordChange, RoleChange
from service.schemas.common import Label
from service.store.access_records import AccountRecord
from service.store.errors import LastAdmin, StoreUnavailable

router = APIRouter(prefix="/v1/access/accounts", tags=["access"])

AccountPath = Annotated[Label, Path(description="Id or name of the account.")]
_CHANGE = (InvalidRequest, UnknownAccount, StoreUnavailable)


@router.get("", operation_id="list_accounts", summary="List accounts", responses=problem_responses(StoreUnavailable))
@requires("admin")
def list_accounts(access: AccessDep) -> AccountList:
    """Return all accounts by name, disabled ones included."""
    return AccountList(items=[_to_account(record) for record in access.list_accounts()])


@router.post(
    "",
    operation_id="create_account",
    summary="Create an account",
    status_code=201,
    responses=problem_responses(InvalidRequest, BodyTooLarge, AccountRefused, AccountExists, StoreUnavailable),
)
@limit_body(CREDENTIALS)
@requires("admin")
def create_account(wanted: AccountRequest, access: AccessDep, actor: ActorDep) -> Account:
    """Create an account. As soon as there is an account, every request needs credentials.

    Names are compared without regard to case. An account cannot be deleted, because records name it as their author.
    """
    password = wanted.password.get_secret_value()
    return _to_account(access.create_account(wanted.name, wanted.role, password, actor))


@router.post(
    "/{account_id}:disable",
    operation_id="disable_account",
    summary="Disable an account",
    responses=problem_responses(*_CHANGE, LastAdmin),
)
@requires("admin")
def disable_account(account_id: AccountPath, access: AccessDep, actor: ActorDep) -> Account:
    """Disable an account and end all its sessions. Disabling it again changes nothing.

    The last enabled account with the role `admin` can be disabled only if there is a valid key with the scope `admin`.
    """
    return _to_account(access.change_account(account_id, partial(accounts.disable, actor=actor)))


@router.post(
    "/{account_id}:enable",
    operation_id="enable_account",
    summary="Enable an account",
    responses=problem_responses(*_CHANGE),
)
@requires("admin")
def enable_account(account_id: AccountPath, access: AccessDep, actor: ActorDep) -> Account:
    """Enable an account that was disabled. Its password stays the same. Enabling it again changes nothing."""
    return _to_account(access.change_account(account_id, partial(accounts.enable, actor=actor)))


@router.post(
    "/{account_id}:role",
    operation_id="set_account_role",
    summary="Change the role of an account",
    responses=problem_responses(*_CHANGE, BodyTooLarge, LastAdmin),
)
@limit_body(CREDENTIALS)
@requires("admin")
def set_account_role(account_id: AccountPath, change: RoleChange, access: AccessDep, actor: ActorDep) -> Account:
    """Give an account another role and end all its sessions. The role that it has already changes nothing.

    The last enabled account with the role `admin` keeps it, unless there is a valid key with the scope `admin`.
    """
    return _to_account(access.change_account(account_id, partial(accounts.set_role, role=change.role, actor=actor)))


@router.post(
    "/{account_id}:password",
    operation_id="set_account_password",
    summary="Set the password of an account",
    responses=problem_responses(*_CHANGE, BodyTooLarge, AccountRefused),
)
@limit_body(CREDENTIALS)
@requires("admin")
def set_account_password(
    account_id: AccountPath, change: PasswordChange, access: AccessDep, actor: ActorDep
) -> Account:
    """Set a new password. All sessions of the account end; an account that was disabled is enabled again."""
    password = change.password.get_secret_value()
    return _to_account(
        access.change_account(account_id, partial(accounts.set_password, password=password, actor=actor))
    )


def _to_account(record: AccountRecord) -> Account:
    return Account(
        id=record.id,
        name=record.name,
        role=record.role,
        created_at=record.created_at,
        disabled_at=record.disabled_at,
        last_login_at=record.last_login_at,
    )
