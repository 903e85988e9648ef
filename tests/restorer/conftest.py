from fix_restore import at

__all__ = ["at"]
