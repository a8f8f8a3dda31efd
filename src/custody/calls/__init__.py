"""MAKE IT HAPPEN: the way of a call. Read `execute` first."""
