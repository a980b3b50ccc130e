"""The service as systemd runs it, on real Debians."""
