"""The MCP proxy: between a client and the servers it would have spoken to, with nothing in a message changed.

What is said is relayed as the bytes it came in; a copy is read, so that tool calls can be checked, recorded
and, where a person says so, held up. `session` is the file to read first, `relay` the protocol without any
input or output. Nothing here is imported until somebody wants it.
"""
