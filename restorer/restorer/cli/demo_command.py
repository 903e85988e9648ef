"""`restorer demo`: everything at once, on an embedded PostgreSQL, in under two minutes."""

from __future__ import annotations

from pathlib import Path

import typer


def demo(
    records: int = typer.Option(60_000, metavar="N", help="Records of the generated backup."),
    folder: Path | None = typer.Option(
        None, metavar="DIR", help="Keep backup and report there.", show_default="a temporary folder"
    ),
    workers: int = typer.Option(1, metavar="N", help="Worker processes."),
    keep: bool = typer.Option(False, "--keep", help="Leave PostgreSQL running at the end until Enter is pressed."),
) -> None:
    """Generate an LMS backup with bad records, restore it into an embedded PostgreSQL, repair a reject, show the
    report."""
    from ..demo.show import show

    raise typer.Exit(show(records, folder, workers, keep=keep))
