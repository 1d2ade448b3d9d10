"""What stands before each live model: its threads, its batches, its watchers, its calls."""
