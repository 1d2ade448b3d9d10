"""One description for each RPC: how its request is built and its answer read."""
