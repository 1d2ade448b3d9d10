"""Looking inside a function while it runs: what is asked, what is found, and on which values."""
