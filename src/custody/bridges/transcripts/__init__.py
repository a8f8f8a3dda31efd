"""Transcripts that coding CLIs keep of their sessions, as runs of this store.

`claude_code` reads the lines, `importing` puts what they say on the record. Used by `custody import`.
"""
