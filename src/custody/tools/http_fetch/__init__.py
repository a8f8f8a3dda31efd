"""The built-in tool `http_fetch`: one HTTP request, and what is answered.

`request` is what is sent and what a redirect makes of it, `body` is what is kept of an answer, `exchange` is
one request and its answer over one connection, `tool` puts them together. Which hosts may be reached is
`sandbox.egress`'s to say, before every connection.
"""
