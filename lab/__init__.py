"""The laboratory: labelled data sets and networks cached once, ideas for clustering judged on all.

`python -m lab.prepare` fills a cache, `python -m lab.judge` scores the ways of `lab/ways.py` on it,
and `lab/protocol.py` decides whether a way may replace the default. Labels score here, and enter no
method. None of this is installed with the package.
"""
