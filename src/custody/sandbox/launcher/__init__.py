"""The launcher: a small process that starts one command at a time and ends its whole tree.

Run as a program by `process` with `python -I -S`, so it imports little of the standard library and nothing
of Custody: `program` is its entry, `service` its loop, `spawn` and `tree` what the loop does. `messages` (the
format) and `tree` (who a process is) are also imported by the rest of `sandbox`.
"""
