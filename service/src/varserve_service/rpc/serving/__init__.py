"""What serves each live model: its threads, batches, watchers and calls in progress."""
