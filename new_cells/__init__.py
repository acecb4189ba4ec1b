"""Labels for new cells by a finished run."""
