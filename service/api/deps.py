"""What routes depend on, under names that let them read like sentences."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Path, Request

from service.deployment.rollout import Rollout
from service.serving.inspections import InspectionLine
from service.serving.proposer import Proposer
from service.serving.readiness import ReadinessCheck

# Async although they wait for nothing: the framework would hand a plain function to a thread and wait for it.


async def _line(request: Request) -> InspectionLine:
    line: InspectionLine = request.app.state.line
    return line


async def _readiness(request: Request) -> ReadinessCheck:
    check: ReadinessCheck = request.app.state.readiness
    return check


async def _proposer(request: Request) -> Proposer:
    proposer: Proposer = request.app.state.proposer
    return proposer


async def _bundles(request: Request) -> Rollout:
    bundles: Rollout = request.app.state.bundles
    return bundles


async def _replay_turn(request: Request) -> asyncio.Lock:
    turn: asyncio.Lock = request.app.state.replay_turn
    return turn


LineDep = Annotated[InspectionLine, Depends(_line)]
ProposerDep = Annotated[Proposer, Depends(_proposer)]
ReadinessDep = Annotated[ReadinessCheck, Depends(_readiness)]
BundlesDep = Annotated[Rollout, Depends(_bundles)]
ReplayTurnDep = Annotated[asyncio.Lock, Depends(_replay_turn)]
ProductPath = Annotated[str, Path(description="Name of the product.", max_length=64)]
VersionPath = Annotated[str, Path(description="The bundle's version.", max_length=64)]
InspectionPath = Annotated[str, Path(description="Id of the inspection, a UUIDv7.", max_length=64)]
