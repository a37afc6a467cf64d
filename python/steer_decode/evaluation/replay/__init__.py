"""Query cascades over recorded answers: what they would have reached, at every threshold."""
