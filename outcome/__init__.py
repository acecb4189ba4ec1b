"""What a run gives: the AnnData, what a person looks at, and the files."""
