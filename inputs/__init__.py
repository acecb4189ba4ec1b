"""Which cells go in: files, samples, choices of cells, and where true labels are from."""
