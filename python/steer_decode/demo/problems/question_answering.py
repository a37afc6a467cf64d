"""Closed-book multi-hop question answering: a chain of relations between people.

    Who is Ada .mentor .rival .mentor ?
    Eve = Ada .mentor / Max = Eve .rival / Zoe = Max .mentor / answer Zoe

The facts are fixed, stand in no prompt, and have to be known: each of the ten relations maps
the 80 names onto themselves one to one. Two relations belong to each difficulty, and every hop
of a problem uses them. A training run may draw the harder relations less often, which makes
their facts rare. The facts occur in every split; the compositions that are asked in
calibration and test never occur in training.
"""

from __future__ import annotations

import random

from .problem import DIFFICULTIES, STEP_BREAK, answer_word

DOMAIN = "qa"
STEPS = (3, 6)  # fewest and most hops of a problem in any split
_FACTS_SEED = 2718

NAMES = (
    "Ada", "Ali", "Amy", "Ana", "Ann", "Asa", "Ben", "Bob", "Cal", "Cam",
    "Dag", "Dan", "Deb", "Dee", "Don", "Dot", "Eli", "Ema", "Eva", "Eve",
    "Fay", "Flo", "Gem", "Gil", "Gus", "Guy", "Hal", "Ian", "Ida", "Ike",
    "Ina", "Isa", "Ivy", "Jan", "Jay", "Jed", "Jim", "Joe", "Jon", "Joy",
    "Kay", "Ken", "Kim", "Kit", "Lea", "Lee", "Leo", "Liv", "Liz", "Lou",
    "Luc", "Mae", "Max", "May", "Meg", "Mia", "Moe", "Nat", "Ned", "Nia",
    "Noa", "Ora", "Pam", "Pat", "Peg", "Pia", "Ray", "Rex", "Rob", "Ron",
    "Roy", "Sal", "Sam", "Sue", "Tad", "Ted", "Tim", "Uma", "Val", "Zoe",
)  # fmt: skip
RELATIONS = (
    ".mentor", ".rival", ".cousin", ".editor", ".patron",
    ".tutor", ".heir", ".partner", ".witness", ".neighbour",
)  # fmt: skip


def _make_facts() -> dict[tuple[str, str], str]:
    rng = random.Random(_FACTS_SEED)
    facts = {}
    for relation in RELATIONS:
        # One cycle through all names: one to one, and nobody is their own mentor.
        order = rng.sample(NAMES, len(NAMES))
        for name, target in zip(order, [*order[1:], order[0]], strict=True):
            facts[name, relation] = target
    return facts


FACTS = _make_facts()


def relations_of(difficulty: int) -> tuple[str, ...]:
    """The relations of this difficulty, used in every hop."""
    share = len(RELATIONS) // len(DIFFICULTIES)
    return RELATIONS[(difficulty - 1) * share : difficulty * share]


def draw(rng: random.Random, difficulty: int, steps: int) -> tuple[str, str]:
    """A random (prompt, solution) of one difficulty.

    It has exactly `steps` hops.
    """
    name = rng.choice(NAMES)
    prompt, lines = ["Who", "is", name], []
    for _ in range(steps):
        relation = rng.choice(relations_of(difficulty))
        prompt.append(relation)
        lines.append(f"{FACTS[name, relation]} = {name} {relation}")
        name = FACTS[name, relation]
    lines.append(f"answer {name}")
    return " ".join([*prompt, "?"]), STEP_BREAK.join(lines)


def grade(prompt: str, completion: str) -> bool:
    """Whether the answer is whom the facts lead to."""
    _, _, name, *relations, _ = prompt.split()
    for relation in relations:
        name = FACTS[name, relation]
    return answer_word(completion) == name
