"""A restore as the tests handle it, and what must hold of one that is done."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from cluster import DATABASE_NAMESPACE, CommandFailed, Json, apply, get, items, kubectl, sql, until
from processes import running_container
from surroundings import PASSWORD

HOST = f"pg.{DATABASE_NAMESPACE}"
OUTCOMES = ("read", "inserted", "updated", "duplicate", "conflict", "rejected")
_PROGRESS = {key: f"records{key.capitalize()}" for key in OUTCOMES}
_SUMS = ", ".join(f"'{key}', sum({key})" for key in OUTCOMES)
_LEDGER = f"""
select coalesce(json_object_agg(table_name, counts), '{{}}') from (
    select table_name, json_build_object({_SUMS}) counts from dbrestore.tasks where run = '%s' group by 1) t
"""


class Restore:
    """`Restore(namespace, name, database, backup="small").set(...).apply()`."""

    def __init__(self, namespace: str, name: str, database: str, backup: str = "small") -> None:
        self.namespace, self.name, self.database = namespace, name, database
        self.manifest: Json = {
            "apiVersion": "dbrestore.io/v1alpha1",
            "kind": "DatabaseRestore",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "source": {
                    "persistentVolumeClaim": {"claimName": "backups"},
                    "path": f"{backup}/rausachcore",
                },
                "target": {"host": HOST, "database": database, "credentialsSecretRef": {"name": "pg-app"}},
                "rejects": {"limitPercent": 5},
            },
        }

    def set(self, **fields: Any) -> Restore:
        """Fields of the spec; `__` in a name goes one level down, None takes the field away."""
        for path, value in fields.items():
            at = self.manifest["spec"]
            *parents, last = path.split("__")
            for parent in parents:
                at = at.setdefault(parent, {})
            if value is None:
                at.pop(last, None)
            else:
                at[last] = value
        return self

    def named(self, name: str) -> Restore:
        other = copy.deepcopy(self)
        other.name = other.manifest["metadata"]["name"] = name
        return other

    def slowly(self) -> Restore:
        """So that there is time to interfere: small batches, one process."""
        return self.set(load__batchRows=200, load__workers=1)

    def apply(self) -> Restore:
        apply(self.manifest)
        return self

    def delete(self, *, wait: bool = True) -> None:
        kubectl("-n", self.namespace, "delete", "dbr", self.name, "--ignore-not-found", f"--wait={str(wait).lower()}")

    def read(self) -> Json:
        found = get("dbr", self.name, self.namespace)
        assert found is not None, f"{self.name} is gone"
        return found

    @property
    def status(self) -> Json:
        status: Json = self.read().get("status", {})
        return status

    @property
    def run(self) -> str:
        return f"{self.namespace}/{self.name}/{self.manifest['spec'].get('runID', '1')}"

    def condition(self, kind: str) -> Json:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    def jobs(self) -> list[Json]:
        return items("jobs", self.namespace, f"dbrestore.io/restore={self.name}")

    def pods(self) -> list[Json]:
        return items("pods", self.namespace, f"dbrestore.io/restore={self.name}")

    def pods_alive(self) -> list[str]:
        """Names of pods that run, or will."""
        return [p["metadata"]["name"] for p in self.pods() if p["status"].get("phase") in ("Pending", "Running")]

    def running_pod(self) -> tuple[str, str]:
        """(name, container ID) of a pod that runs."""

        def look() -> tuple[str, str] | None:
            running = [(p["metadata"]["name"], running_container(p)) for p in self.pods()]
            return next(((name, container) for name, container in running if container), None)

        return until(f"a pod of {self.name} runs", look, 30)

    def pods_lost(self) -> int:
        """How many pods of the restore's Jobs ended otherwise than well."""
        return sum(job["status"].get("failed", 0) for job in self.jobs())

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait_succeeded(self, seconds: int = 120) -> Restore:
        """As a person waits; a failure is told with its own words, and at once."""

        def ended() -> Json | None:
            status = self.status
            done = status.get("phase") in ("Succeeded", "Failed", "Cancelled") and status.get("runID") == self._run_id
            return status if done else None

        status = until(f"{self.run} ends", ended, seconds)
        assert status["phase"] == "Succeeded", f"{self.run}: {self.explain()}"
        kubectl("-n", self.namespace, "wait", "--for=condition=Succeeded", f"dbr/{self.name}", "--timeout=5s")
        return self

    def wait_phase(self, *phases: str, seconds: int = 90) -> Json:
        def there() -> Json | None:
            status = self.status
            return (
                status if status.get("phase") in phases and status.get("runID", self._run_id) == self._run_id else None
            )

        try:
            return until(f"{self.run} is {' or '.join(phases)}", there, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain()}") from None

    def wait_reason(self, words: str, seconds: int = 30) -> Json:
        """Until a condition or lastError tells of `words`. -> status"""

        def told() -> Json | None:
            status = self.status
            texts = [f"{c.get('reason')} {c.get('message')}" for c in status.get("conditions", [])]
            texts.append(json.dumps(status.get("lastError", {})))
            return status if any(words in text for text in texts) else None

        try:
            return until(f"{self.run} tells of {words!r}", told, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain()}") from None

    def wait_loading(self, seconds: int = 60) -> None:
        """Until rows are committed, and there are more to come."""
        until(f"{self.run} has committed something", lambda: self.ledger_read() > 0, seconds)

    @property
    def _run_id(self) -> str:
        return str(self.manifest["spec"].get("runID", "1"))

    def explain(self) -> str:
        """Everything that helps to understand a restore that is not as it should be."""
        said = [yaml.safe_dump(self.read().get("status", {}))]
        for pod in self.pods():
            try:
                said.append(kubectl("-n", self.namespace, "logs", pod["metadata"]["name"], "--tail=15"))
            except CommandFailed as error:
                said.append(str(error))
        return "\n".join(said)

    # -- the truth -----------------------------------------------------------------------------------------------------

    def ledger(self) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = json.loads(sql(self.database, _LEDGER % self.run))
        return counts

    def ledger_read(self) -> int:
        there = sql(self.database, "select to_regclass('dbrestore.tasks') is not null")
        if there != "t":
            return 0
        return int(sql(self.database, f"select coalesce(sum(read), 0) from dbrestore.tasks where run = '{self.run}'"))

    def runs(self) -> int:
        """How many runs the ledger of the database knows."""
        return int(sql(self.database, "select count(*) from dbrestore.runs"))

    def attempts(self) -> int:
        """How often the run was begun or gone on with, as the ledger has it."""
        return int(sql(self.database, f"select attempts from dbrestore.runs where run = '{self.run}'"))

    def check(self, expected: Json) -> None:
        """Status, ledger, report and tables agree with each other and with what was generated, table by table.
        `expected`: what the generator printed; the tables were empty before."""
        status, ledger = self.status, self.ledger()
        assert ledger == expected["tables"]
        told = {t["name"]: {key: t[key] for key in OUTCOMES} for t in status["tables"]}
        assert told == {name: ledger[name] for name in told}
        assert len(told) + status.get("tablesOmitted", 0) == len(ledger)  # 4,096 bytes do not always hold them all
        totals = {key: status["progress"][_PROGRESS[key]] for key in OUTCOMES}
        assert totals == expected["totals"]
        assert status["progress"]["percent"] == 100
        # whole rows, so that one that is there twice shows even where no key would refuse it
        counts = "union all ".join(
            f"select '{name}' n, array[count(*), count(distinct md5(t::text))] c from \"{name}\" t " for name in ledger
        )
        rows = json.loads(sql(self.database, f"select json_object_agg(n, c) from ({counts}) t"))
        assert rows == {name: [counts["inserted"]] * 2 for name, counts in ledger.items()}
        rejects = int(sql(self.database, f"select count(*) from dbrestore.rejects where run = '{self.run}'"))
        assert rejects == expected["totals"]["rejected"]
        assert PASSWORD not in json.dumps(self.read())
