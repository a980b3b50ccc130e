"""The wall around pika: nothing outside this package imports it, no type or exception of its own gets out."""
