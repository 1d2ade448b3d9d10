"""What calls take and give: specs, readings, commits, regions. Knows no calls."""
