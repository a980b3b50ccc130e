"""A handler module that cannot be imported."""

raise RuntimeError("the database is not configured")
