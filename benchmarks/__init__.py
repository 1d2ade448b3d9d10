"""Figures of varserve, each beside its peer or limit, measured in one run on one machine."""
