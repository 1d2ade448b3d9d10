"""Handles: a served model, its variables, functions, watches and leases as objects."""
