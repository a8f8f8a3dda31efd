"""Where coding CLIs come in that call a program of ours before and after each of their tools.

A pure part (`event`, `dialects`, `tools`, one file for each CLI) knows what a hook is told and how it
answers; `answering` joins it with a runtime, `mount` puts that behind the daemon, and `client` is the program
a CLI starts.
"""
