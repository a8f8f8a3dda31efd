"""The daemon's door: WebSocket and HTTP on one port, and on a Unix socket.

`checks` says who may connect at all, `protocols` bounds what a connection may hold, `listening` has the
sockets, `app` hands each request to `websocket`, `http` or `events_stream`. Used by `custody serve`.
"""
