"""Scores in, a comparison out: what each ablation did to each metric, how sure that is, and the files that people read.

`comparison.compare` is the way in; `html.write_report` the way out.
"""
