"""Whether a call is allowed: who makes it, what it needs, and what is recorded of it."""
