"""The inside of the commands benchmark.py and datasets.py: jobs, records, report, downloads."""
