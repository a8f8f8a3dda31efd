"""Agent frameworks: what an agent built with one of them does, on the record of a run.

One file for each framework, which nothing else imports: `import custody` loads none of them. An adapter
translates between the framework's own hooks and `run.step` and `run.observe`, and refuses in the framework's
own way.
"""
