"""The doors: one module per command."""
