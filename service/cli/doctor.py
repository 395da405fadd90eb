"""`plumbline doctor`: check the machine, the settings and the bundles."""

from __future__ import annotations

import typer

from service.cli.console import COLOURS, FAILURE, OUT, shown
from service.cli.options import with_settings
from service.settings import Settings


@with_settings
def doctor(settings: Settings) -> None:
    """Check the machine, the settings and the bundles, and suggest a remedy for every problem.

    Exit code: 0 no problem (there may be warnings), 1 at least one problem, 2 invalid settings.
    """
    from service.cli.checks import run_checks
    from service.cli.findings import Health
    from service.inspection.runtime.configure import configure

    configure()
    has_problem = False
    for finding in run_checks(settings):
        colour = COLOURS[finding.health]
        subject, detail = shown(finding.subject), shown(finding.detail)
        OUT.print(f"[{colour}]{finding.health:8}[/] [bold]{subject}[/]: {detail}", soft_wrap=True)
        if finding.remedy:
            OUT.print(f"         → {shown(finding.remedy)}", soft_wrap=True)
        has_problem = has_problem or finding.health is Health.PROBLEM
    if has_problem:
        raise typer.Exit(FAILURE)
