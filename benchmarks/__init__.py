"""Figures of varserve, each beside its peer or limit, measured in one run on one machine.

A *side* is a server and its client, each in a process of its own (`sides/`). A *work* is one thing
that a side's client can do over and over. A *figure* says which work of ours is held against which
works of which peers, and what should come of it; `families/` declares them and measures nothing.
The runner takes the sides in turn, so that a machine that slows down slows all of them.
"""
