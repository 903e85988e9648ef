from fix_cli import cli
from fix_people import backup, people
from fix_restore import at
from fix_target import good, own, target

__all__ = ["at", "backup", "cli", "good", "own", "people", "target"]
