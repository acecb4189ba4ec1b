"""The parts that `benchmark.py` and `datasets.py` are made of: plan, jobs, report, downloads."""
