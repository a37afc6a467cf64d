"""Engines under load, reckoned from recorded answers.

A discrete-event simulation of two pools of engines. Recorded traces say what an answer asks of
either model; a pass takes as long as it was measured, or assumed. No model runs.
"""
