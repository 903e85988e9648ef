"""What can go wrong, as a person meets it: one line that names the thing, one remedy, one exit code.

    RestoreError
    ├── Refused        2  the input, the spec or the target is wrong; trying again will not help
    ├── LoadFailed     2  the load ended and is not a success (rejects past the limit, a broken file, verification)
    ├── Unavailable    1  infrastructure; the same command may well succeed later
    ├── Cancelled      3  a person said stop, for good
    └── Interrupted  143  SIGTERM or ctrl-C; the open batch is rolled back, the run can be resumed

The type decides the exit code, so that policy never depends on the words. `reason` is the CamelCase word of the
`Succeeded` condition (docs/restoring.md lists them). No message holds a value from a record.
"""

from __future__ import annotations


class RestoreError(Exception):
    """Base of all: `message` names the thing, `remedy` says what to do, `reason` is the condition's reason."""

    exit_code = 1
    outcome = "Failed"
    default_reason = "LoadFailed"

    def __init__(
        self, message: str, remedy: str = "", *, reason: str | None = None, table: str = "", sqlstate: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.reason = reason or self.default_reason
        self.table = table
        self.sqlstate = sqlstate

    def line(self) -> str:
        """The one line a person reads: what is wrong, then what to do."""
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class Refused(RestoreError):
    """The input, the spec or the target is wrong: exit 2. `problems` holds every refusal found, one line each."""

    exit_code = 2
    default_reason = "ValidationFailed"

    def __init__(self, message: str, remedy: str = "", *, problems: tuple[str, ...] = (), **kw: str) -> None:
        super().__init__(message, remedy, **kw)
        self.problems = problems or (self.line(),)


class LoadFailed(RestoreError):
    """The load ended and is not a success; what is committed stays and is reported: exit 2."""

    exit_code = 2


class Unavailable(RestoreError):
    """The database, the volume or another holder is in the way for now: exit 1."""

    default_reason = "Unavailable"


class Cancelled(RestoreError):
    """A person said stop, for good: exit 3."""

    exit_code = 3
    outcome = "Cancelled"
    default_reason = "Cancelled"


class Interrupted(RestoreError):
    """Stopped by SIGTERM or ctrl-C: exit 143. The open batch is rolled back; the same command resumes."""

    exit_code = 143
    outcome = "Interrupted"
    default_reason = "Interrupted"
