"""Step plans: those that people write, with conditions on what became of others and statuses of their own.

Owns their text, what can be said of one without starting anything (`analysis`, `drawing`), and working on one
through a runtime (`running`), again after it was cut (`earlier`). The order among actions is the one of every
plan. Used by the doors.
"""
