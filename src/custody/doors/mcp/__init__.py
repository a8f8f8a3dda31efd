"""The MCP server: the tools, the questions and the runs, for whoever speaks the Model Context Protocol.

The protocol in all its versions is the official SDK's; ours is what is offered and who may have it. `server`
is the file to read first. Needs the extra `[mcp]`; nothing here is imported until somebody wants it.
"""
