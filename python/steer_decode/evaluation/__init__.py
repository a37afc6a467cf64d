"""Accuracy against cost: routers over problems, results that survive, reports."""
