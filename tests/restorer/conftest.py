from fix_cli import cli
from fix_disorder import disorder
from fix_people import backup, people
from fix_restore import at
from fix_target import good, own, target

__all__ = ["at", "backup", "cli", "disorder", "good", "own", "people", "target"]
