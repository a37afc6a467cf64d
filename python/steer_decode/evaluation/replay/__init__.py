"""Query cascades over recorded answers, without a run.

What they would have reached, at every threshold.
"""
