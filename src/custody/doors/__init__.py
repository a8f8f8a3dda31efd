"""Where others come in: one package a door."""
