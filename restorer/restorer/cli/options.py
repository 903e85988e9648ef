"""From words to a request: manifest and flags to a spec, flags and PG* variables to a connection string."""

from __future__ import annotations

import getpass
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pydantic
import typer
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from restorer.database.connection import target_label
from restorer.errors import Refused
from restorer.preflight import find
from restorer.spec import Ledger, Manifest, RestoreSpec, Target

if TYPE_CHECKING:
    from yaml import SafeLoader

BACKUP = typer.Option(None, "--backup", "-b", metavar="DIR", help="The backup volume's root, or one snapshot's folder.")
DSN = typer.Option(None, "--dsn", metavar="DSN", help="postgresql://… or key=value; else the PG* variables.")
MANIFEST = typer.Option(
    None,
    "--file",
    "-f",
    metavar="FILE",
    help="A DatabaseRestore manifest (YAML), as kubectl applies it; or env:VARIABLE.",
)
NAME = typer.Option(
    None, "--name", metavar="RUN", help="Name of the run; made from backup, target and spec when not given."
)
RUN_ID = typer.Option(None, "--run-id", metavar="ID", help="Another ID is another run.", show_default="1")
SNAPSHOT = typer.Option(
    None, "--snapshot", metavar="NAME", help="The snapshot folder.", show_default="the latest complete one"
)
TABLES = typer.Option(None, "--tables", metavar="GLOB,…", help="Only these tables; !GLOB leaves some out.")
SCHEMA = typer.Option(None, "--schema", help="Schema of the tables.", show_default="public")
LEDGER = typer.Option(None, "--ledger-schema", help="Schema of the ledger.", show_default=Ledger().schema_)
JSON = typer.Option(False, "--json", help="JSON log lines on stderr, the report as one line of JSON on stdout.")


class Choice(msgspec.Struct, frozen=True):
    """What was asked for. `run` is the key in the ledger; `namespace` and `name` label metrics."""

    spec: RestoreSpec
    root: Path
    conninfo: str
    run: str
    namespace: str
    name: str


def load_manifest(path: Path | None) -> Manifest | None:
    """The manifest in a file, or in the environment variable that `env:VARIABLE` names (so the operator hands it to a pod); other
    documents may stand beside it, as what a restore needs in a cluster does (a Secret, a claim). Raises Refused for one that is not
    there, not YAML, or not a valid DatabaseRestore, naming every field."""
    if path is None:
        return None
    import yaml  # half of all commands come without a manifest

    try:
        return Manifest.model_validate(_only_restore(path, yaml.SafeLoader(_manifest_text(path))))
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", "check the path of the manifest") from None
    except pydantic.ValidationError as error:
        raise refuse(error, str(path)) from None
    except (yaml.YAMLError, ValueError, RecursionError):  # no such date, bytes that are not UTF-8
        raise Refused(f"{path} is not YAML", "check its indentation and quotes") from None


def _only_restore(path: Path, loader: SafeLoader) -> dict[str, Any]:
    """The one DatabaseRestore among the documents, and what a List of them holds (`kubectl get` without a name writes one); what is
    alone is taken for one. The others are not looked into: they may hold tags and values that nobody here knows."""
    nodes = []
    while loader.check_node():
        nodes += _listed(loader.get_node())
    restores = nodes if len(nodes) == 1 else [node for node in nodes if _kind(node) == "DatabaseRestore"]
    data = loader.construct_document(restores[0]) if len(restores) == 1 else None
    if not isinstance(data, dict):
        holds = f"{len(restores)} DatabaseRestores" if len(restores) > 1 else "no DatabaseRestore"
        raise Refused(f"{path} holds {holds}", "name a file that has one")
    return data


def _listed(document: Any) -> list[Any]:
    items = _member(document, "items") if _kind(document) == "List" else None
    return items.value if items is not None and items.id == "sequence" else [document]


def _kind(node: Any) -> Any:
    kind = _member(node, "kind")
    return kind.value if kind is not None else None


def _member(node: Any, name: str) -> Any:
    members = node.value if node.id == "mapping" else []
    return next((value for key, value in members if key.value == name), None)


def _manifest_text(path: Path) -> str:
    variable = str(path).removeprefix("env:")
    if variable == str(path):
        return path.read_text(encoding="utf-8")
    if (text := os.environ.get(variable)) is None:
        raise Refused(f"the variable {variable} is not set", "put the manifest into it, or name a file")
    return text


def refuse(error: pydantic.ValidationError, where: str) -> Refused:
    """Every field that is wrong, by its name in the manifest."""
    problems = tuple(
        f"{where}: {'.'.join(map(str, e['loc'])) or 'document'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    )
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Refused(problems[0] + more, "mend the field", problems=problems)


def make_spec(manifest: Manifest | None, overrides: dict[str, Any]) -> RestoreSpec:
    """The manifest's spec with the flags on top. `overrides`: dotted camelCase path -> value; None means not given."""
    given = manifest.spec.model_dump(by_alias=True, exclude_unset=True) if manifest else {}
    for path, value in overrides.items():
        if value is None:
            continue
        *parents, last = path.split(".")
        at = given
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
        if path == "rejects.limit":
            at.pop("limitPercent", None)
        if path == "rejects.limitPercent":
            at.pop("limit", None)
    try:
        return RestoreSpec.model_validate(given)
    except pydantic.ValidationError as error:
        raise refuse(error, "spec") from None


def make_conninfo_of(dsn: str | None, target: Target) -> str:
    """The DSN; what it leaves open comes from the PG* variables, and only without a DSN from the manifest's target: who
    runs a manifest by hand means the database of this shell. The password stays in the environment."""
    try:
        parts = conninfo_to_dict(dsn or "")
    except ProgrammingError:
        raise Refused(
            "--dsn is not a connection string", "write postgresql://user@host:5432/database, or host=… dbname=…"
        ) from None
    if service := parts.pop("service", None):
        os.environ["PGSERVICE"] = str(service)  # for the workers too
    if os.environ.get("PGSERVICE"):  # libpq's own idea of what is not said, out of pg_service.conf
        told = {o.keyword.decode(): o.val.decode() for o in Conninfo.get_defaults() if o.val}
        for key in ("host", "hostaddr", "port", "dbname", "user"):
            if key in told:
                parts.setdefault(key, told[key])
    env = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER"}
    for key, variable in env.items():
        if not parts.get(key) and os.environ.get(variable):
            parts[key] = os.environ[variable]
    if dsn is None and not parts.get("host") and target.host:
        parts |= {"host": target.host, "port": target.port, "sslmode": target.tls.sslmode}
    if dsn is None and not parts.get("dbname") and target.database:
        parts["dbname"] = target.database
    if not parts.get("dbname"):
        parts["dbname"] = parts.get("user") or getpass.getuser()
    return make_conninfo("", **{k: v for k, v in parts.items() if v not in (None, "")})


def selection(snapshot: str | None, tables: str | None, schema: str | None) -> dict[str, Any]:
    """The overrides that --snapshot, --tables (`users,post*,!post_tags`) and --schema mean."""
    globs = [g.strip() for g in (tables or "").split(",") if g.strip()]
    return {
        "source.snapshot": {"policy": "Exact", "name": snapshot} if snapshot else None,
        "tables.include": None if tables is None else [g for g in globs if not g.startswith("!")] or ["*"],
        "tables.exclude": None if tables is None else [g[1:] for g in globs if g.startswith("!")],
        "target.schema": schema,
    }


def choose(
    *,
    file: Path | None,
    backup: Path | None,
    dsn: str | None,
    name: str | None,
    run_id: str | None,
    overrides: dict[str, Any],
) -> Choice:
    """Everything together. Raises Refused."""
    manifest = load_manifest(file)
    spec = make_spec(manifest, overrides | {"runID": run_id})
    if backup is None:
        raise Refused("no backup is named", "say --backup DIR: the folder that the backup volume holds")
    conninfo = make_conninfo_of(dsn, spec.target)
    if manifest is not None and name is None:
        namespace, name = manifest.metadata.namespace, manifest.metadata.name
        return Choice(spec, backup, conninfo, f"{namespace}/{name}/{spec.run_id}", namespace, name)
    name = name or own_name(spec, backup, conninfo)
    return Choice(spec, backup, conninfo, name if "/" in name else f"{name}/{spec.run_id}", "", name)


def own_name(spec: RestoreSpec, backup: Path, conninfo: str) -> str:
    """A name made of backup, snapshot, target and spec: the same command means the same run."""
    snapshot = find(spec, backup, None).name
    text = "\n".join([str(backup.resolve()), spec.source.path, snapshot, target_label(conninfo), spec.digest()])
    return f"{snapshot}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def ledger_schema(given: str | None, manifest: Manifest | None) -> str:
    """Where the ledger is: as said, else as the manifest has it."""
    return given or (manifest.spec.ledger.schema_ if manifest else Ledger().schema_)


def ledger_target(dsn: str | None, file: Path | None) -> tuple[str, Manifest | None]:
    """The connection string of commands that only look into the ledger."""
    manifest = load_manifest(file)
    return make_conninfo_of(dsn, manifest.spec.target if manifest else Target()), manifest
