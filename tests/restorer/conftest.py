from fix_cli import cli
from fix_restore import at

__all__ = ["at", "cli"]
