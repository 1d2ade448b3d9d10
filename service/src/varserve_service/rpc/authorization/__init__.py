"""Whether a call may be, by what it names, and what is written down of it."""
