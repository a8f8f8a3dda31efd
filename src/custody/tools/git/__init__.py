"""The built-in tool `git`: `tool` runs it; `plans` says what an operation may change before it does."""
