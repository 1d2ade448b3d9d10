"""The handlers, one for each RPC: check, call the core, translate."""
