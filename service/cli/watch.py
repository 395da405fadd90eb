"""`plumbline watch`: inspect the images that a camera PC drops into a folder."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.console import COLOURS, ERR, FAILURE, OUT, refuse, shown, status_line, stop
from service.cli.options import ApiKey, CaFile, Url
from service.cli.recipe import DEFAULT_URL

if TYPE_CHECKING:
    from service.cli.watching.requests import StopFlag
    from service.cli.watching.watcher import FolderWatcher
    from service.store.lock import FileLock

LOCK_NAME = ".plumbline-watch.lock"
_WIDTH = 8


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that images are dropped into.")],
    product: Annotated[str, typer.Option(help="Product that the images show.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    part_id: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that is searched for in the file name, with the groups (?P<part_id>...), "
            "(?P<lot>...) and (?P<station>...), or some of them. With --recursive the name includes the sub-folders."
        ),
    ] = None,
    station: Annotated[str | None, typer.Option(help="Station of the images, unless the file name has it.")] = None,
    lot: Annotated[str | None, typer.Option(help="Lot of the images, unless the file name has it.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Inspect images in sub-folders, too.")] = False,
    settle: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Seconds during which size and time of a complete file do not change."),
    ] = 2.0,
    interval: Annotated[float, typer.Option(min=0.05, max=3600, help="Seconds between scans of the folder.")] = 1.0,
    max_file_bytes: Annotated[
        int, typer.Option(min=1, max=2**31 - 1, help="Larger files are refused without being sent.")
    ] = 32 * 2**20,
    once: Annotated[bool, typer.Option("--once", help="Inspect the images that are present, then end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead of text.")] = False,
) -> None:
    """Inspect the images that another program drops into a folder, and move each by its decision.

    Images are moved to the sub-folders pass, review, fail, invalid, or refused if the service cannot inspect them, with
    a JSON file beside each. Every image is inspected once, also over restarts. SIGTERM or Ctrl-C ends the command after
    the current image.

    Exit code: 0 the command was stopped, or with --once every image was inspected and moved; 1 the service refuses the
    product or the API key, another process watches the folder, or with --once an image was refused or left in the
    folder; 2 wrong usage.
    """
    from plumbline_client import Client
    from service.cli.watching.parts import NamePattern
    from service.cli.watching.requests import StopFlag
    from service.cli.watching.targets import TargetFolders
    from service.cli.watching.watcher import FolderWatcher, WatchOptions, describe

    try:
        pattern = None if part_id is None else NamePattern(part_id)
    except ValueError as error:
        refuse(str(error))
    if not folder.is_dir():
        refuse(f"The folder {folder} does not exist or is not a folder.")
    options = WatchOptions(
        product=product,
        recursive=recursive,
        settle_s=settle,
        interval_s=interval,
        max_file_bytes=max_file_bytes,
        pattern=pattern,
        station=station,
        lot=lot,
        once=once,
    )
    try:
        # The watcher repeats requests itself, so that it can be stopped while it waits.
        client = Client(url, api_key=api_key, verify=ca_file or True, retries=0)
    except ValueError as error:
        stop(str(error), FAILURE)
    lock = _lock(folder)
    flag = StopFlag()
    try:
        with client, _stop_on_signals(flag):
            TargetFolders(folder).create()
            watcher = FolderWatcher(folder, client, options, _print_json if as_json else _print_text, flag)
            is_done = _run(watcher, as_json=as_json)
    except OSError as error:
        stop(f"The folder cannot be used. {describe(error)}", FAILURE)
    finally:
        lock.release()
    if not is_done or (once and not watcher.is_complete):
        raise typer.Exit(FAILURE)


def _run(watcher: FolderWatcher, *, as_json: bool) -> bool:
    """Run the watcher and print the summary. Return whether it ended as it should."""
    from service.cli.watching.requests import GaveUp, WatcherRefused

    failure = None
    try:
        watcher.run()
    except (GaveUp, WatcherRefused) as error:
        failure = str(error)
    finally:
        counts = {name: count for name, count in sorted(watcher.counts.items()) if count}
        if as_json:
            _print_json("summary", {"counts": counts} | ({"error": failure} if failure else {}))
        else:
            none = "No images." if failure is None else "No image was inspected. The images stay in the folder."
            ERR.print(", ".join(f"{count} {name}" for name, count in counts.items()) or none)
    if failure is not None and not as_json:
        ERR.print(f"[red]{shown(failure)}[/]", soft_wrap=True)
    return failure is None


def _lock(folder: Path) -> FileLock:
    from service.store.errors import StoreUnavailable
    from service.store.lock import FileLock

    try:
        return FileLock(folder / LOCK_NAME, f"The folder {folder}")
    except StoreUnavailable as error:
        stop(f"{error.reason}. Stop the other watcher, or watch another folder.", FAILURE)
    except OSError as error:
        stop(f"{folder / LOCK_NAME} cannot be created: {error.strerror}.", FAILURE)


@contextmanager
def _stop_on_signals(flag: StopFlag) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C set the flag; the second one ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [signal.SIGINT, signal.SIGTERM]
    previous = {name: signal.getsignal(name) for name in names}

    def request_stop(number: int, _: object) -> None:
        flag.is_set = True
        signal.signal(number, signal.SIG_DFL)

    for name in names:
        signal.signal(name, request_stop)
    # See `is_open_for_writing`.
    if hasattr(signal, "SIGIO"):
        previous[signal.SIGIO] = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _print_json(event: str, values: dict[str, Any]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    typer.echo(json.dumps({"time": now, "event": event, **values}))


def _print_text(event: str, values: dict[str, Any]) -> None:
    if event in COLOURS and "inspection" in values:
        status_line(event, f"{values['file']}  {_summary(values['inspection'])}", _WIDTH)
        return
    text = values.get("reason") or _problem_text(values.get("problem", {})) or "the service responds again"
    where = f"{values['file']}: " if "file" in values else ""
    OUT.print(f"[{'green' if event == 'resumed' else 'red'}]{event:{_WIDTH}}[/] {shown(where + text)}", soft_wrap=True)


def _problem_text(problem: dict[str, Any]) -> str:
    return str(problem.get("detail") or problem.get("title") or "")


def _summary(inspection: dict[str, Any]) -> str:
    if inspection.get("score") is None:
        return ", ".join(str(item.get("detail")) for item in inspection.get("invalid_reasons", []))
    return f"score {inspection['score']:.4g}  p {inspection['p_value']:.3g}  {inspection['id']}"
