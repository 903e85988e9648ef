"""The `restore-operator` command."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys

import structlog

from .settings import BadSetting, Settings


def main(arguments: list[str] | None = None) -> int:
    """Runs the operator until SIGTERM or ctrl-C. -> exit code: 0 stopped, 1 no cluster or no port, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="restore-operator",
        description="Runs DatabaseRestores of a cluster. Settings come from RESTORE_OPERATOR_* (docs/reference.md).",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--namespace", "-n", action="append", metavar="N", help="watch this namespace; may be repeated")
    where.add_argument("--all-namespaces", "-A", action="store_true", help="watch all of them")
    given = parser.parse_args(arguments)
    try:
        settings = Settings.of()
    except BadSetting as error:
        print(f"restore-operator: {error}", file=sys.stderr)
        return 2
    _log(settings)
    # Only now what takes a while to import.
    from .kube import KubeError
    from .metrics import PortUnavailable

    try:
        asyncio.run(_run(settings, given.namespace or []))
    except (KubeError, PortUnavailable) as error:
        print(f"restore-operator: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(settings: Settings, namespaces: list[str]) -> None:
    from .controller import run

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with contextlib.suppress(asyncio.CancelledError):
        await run(settings, namespaces, stop)


def _log(settings: Settings) -> None:
    """One line per happening on stderr: JSON, or text for people. kopf's own lines go the same way."""
    level = logging.getLevelName(settings.log_level)
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("kopf").setLevel(max(level, logging.WARNING) if level > logging.DEBUG else level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
