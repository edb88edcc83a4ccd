"""The one exception that is the user's to mend; everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """Bad input: one line that says where, what, and what would work."""
