"""OpenTelemetry out: runs, steps and calls as spans, and the metrics beside them.

`mapping` is the one table of names, pinned to one version of the conventions. `destination` says where to,
`spans` and `metrics` what, `senders` how, `exporter` when: it follows the journal from a saved cursor.
Nothing here is loaded before somebody exports; the packages it needs are the extra `[otel]`.
"""
