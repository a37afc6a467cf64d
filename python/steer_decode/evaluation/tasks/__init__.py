"""What an evaluation asks.

The demo's problems, reasoning-gym's, or a user's own JSON lines.
"""

from __future__ import annotations

from .base import Task, check_unique, final_answer
from .checkers import CHECKERS, Checker, load_checker
from .demo import demo_tasks
from .gym import gym_tasks
from .jsonl import jsonl_tasks

__all__ = [
    "CHECKERS",
    "Checker",
    "Task",
    "check_unique",
    "demo_tasks",
    "final_answer",
    "gym_tasks",
    "jsonl_tasks",
    "load_checker",
]
