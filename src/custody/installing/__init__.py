"""Custody in the settings of other programs: hooks of coding CLIs, servers of MCP clients.

Owns which files those are, how a text is edited in place so that everything a person wrote stays as it is,
and how it is taken out again. Knows nothing of what a hook or the proxy does, and asks nobody: that is the
command line's. `plans` is the file to read first.
"""
