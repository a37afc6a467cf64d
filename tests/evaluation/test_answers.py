"""How answers are read and compared: the right verdict first, then the text and the reference."""
# ruff: noqa: RUF001  # signs that look like others are what this is about

from __future__ import annotations

import time

import pytest
from steer_decode.evaluation.tasks import final_answer
from steer_decode.evaluation.tasks.checkers import exact, load_checker, reference
from steer_decode.evaluation.tasks.normal import plain

MATRIX = r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"
# By kind: (right or wrong, text, reference).
TABLE: dict[str, list[tuple[bool, str, str]]] = {
    "scientific notation": [
        (True, r"\boxed{0.00001}", "1e-05"),
        (True, r"\boxed{10^{-5}}", "1e-05"),
        (True, r"\boxed{10^{22}}", "1e+22"),
        (True, r"\boxed{1.2\times10^{-5}}", "0.000012"),
        (True, "It is 1.2 × 10⁻⁵", "1.2e-5"),
        (True, r"\boxed{6.02 \cdot 10^{23}}", "6.02E23"),
        (True, "The answer is 2.5*10^3.", "2500"),
        (True, "2.5 x 10^3", "2500"),
        (True, "1e5", "100000"),
        (False, r"\boxed{e+22}", "1e+22"),
        (False, r"\boxed{e-5}", "1e-5"),
        (False, "1e-5", "1e-6"),
        (False, "2.5e3", "2.5"),
    ],
    "tiny, long and rounded numbers": [
        (False, r"\boxed{10^{-8}}", "2e-8"),
        (False, "1e-300", "2e-300"),
        (False, "0", "1e-12"),
        (False, r"\boxed{\frac{1}{10^{9}}}", "2e-9"),
        (True, r"\boxed{\frac{1}{10^{9}}}", "1e-9"),
        (False, "12345678901234567890", "12345678901234567891"),
        (False, "1000001", "1000000"),
        (True, "0.333333", "1/3"),
        (False, "0.333", "1/3"),
        (False, "0.1234567", "0.1234568"),
        (True, "0.3", "0.30000000000000004"),
        (True, "3.14159", r"$\pi$"),
        (False, "3.14", r"$\pi$"),
        (True, r"x \approx 3.14159", r"\pi"),
        (False, r"\boxed{10^{-20}x}", r"2\cdot10^{-20}x"),
        (False, "2.000009", "2"),
        (True, "2.0", "2"),
        (False, "41.999", "42"),
    ],
    "groups of digits": [
        (True, "1,234.5", "1234.5"),
        (True, "1 234", "1234"),
        (True, "1\u202f234\u202f567", "1234567"),
        (True, "1'234", "1234"),
        (True, r"\boxed{1{,}234}", "1234"),
        (True, r"\boxed{1\,234}", "1,234"),
        (True, "1.234,5", "1234.5"),
        (True, "12 345,67", "12345.67"),
        (False, "1,234", "1.234"),
        (False, "1, 234", "1234"),
        (False, "12,34", "1234"),
    ],
    "fractions and mixed numbers": [
        (True, r"\boxed{3.5}", "3 1/2"),
        (False, r"\boxed{2}", "3 1/2"),
        (True, r"$3\frac{1}{2}$", "3.5"),
        (True, "1 1/2", "1.5"),
        (False, "11/2", "1 1/2"),
        (True, r"\boxed{\frac12}", "0.5"),
        (True, r"\boxed{\dfrac{-1}{2}}", "-1/2"),
        (True, r"\boxed{-3 \frac12}", "-3.5"),
        (True, "2½", "2.5"),
        (True, "½", "1/2"),
        (True, "2/4", "1/2"),
        (True, r"\boxed{0.\overline{3}}", "1/3"),
        (False, r"\boxed{\frac{1}{3}}", "0.3"),
    ],
    "tags and boxes": [
        (True, "Some steps.\n\n<answer>42</answer>", "42"),
        (True, "<answer>1/2</answer>", "0.5"),
        (True, "<Answer>\n42\n</Answer>", "42"),
        (True, r"<answer>\boxed{42}</answer>", "42"),
        (True, "<answer>**42**</answer>", "42"),
        (True, "between <answer> and </answer>: <answer>42</answer>", "42"),
        (False, "<answer>42", "42"),
        (True, r"\fbox{42}", "42"),
        (True, r"$\boxed 7$", "7"),
        (True, r"\boxed{\{1, 2\}}", r"\{2, 1\}"),
        (True, r"\boxed{\boxed{7}}", "7"),
        (True, r"\boxed{x = \boxed{7}}", "7"),
        (True, "<|begin_of_box|>42<|end_of_box|>", "42"),
        (True, r"put it into \boxed{}: \boxed{42}, not into \boxed{}", "42"),
    ],
    "withdrawn answers": [
        (True, r"That gives \boxed{5}. No, a sign is wrong: it is \boxed{7}.", "7"),
        (False, r"That gives \boxed{5}. No, a sign is wrong: it is \boxed{7}.", "5"),
        (False, r"That gives \boxed{5}. No, a sign is wrong: it is \boxed{7}.", r"\{5, 7\}"),
        (True, r"\boxed{3} ... wait ... \boxed{7}", "7"),
        (True, "<answer>5</answer> or rather <answer>7</answer>", "7"),
        (True, "The answer is 5.\nNo.\nThe answer is 7.", "7"),
        (False, "The answer is 5.\nNo.\nThe answer is 7.", "5"),
        (True, "The answer is 5? I am not sure.\nSo it is 7.", "7"),
    ],
    "thoughts": [
        (True, "<think>Perhaps \\boxed{7}.</think>\n\nThe answer is 42.", "42"),
        (False, "<think>Perhaps \\boxed{7}.</think>\n\nThe answer is 42.", "7"),
        (True, "Perhaps \\boxed{7}.\n</think>\n\n42", "42"),
        (True, "<think>I could say <answer>7</answer>.</think>\n\n42", "42"),
        (False, "<think>It must be \\boxed{42}", "42"),
        (False, "<think>It must be \\boxed{42}</think>", "42"),
        (True, "<think>a<think>b</think>c \\boxed{7}</think>42", "42"),
        (True, "[THINK]\\boxed{7}[/THINK]42", "42"),
        (True, "<|begin_of_thought|>7<|end_of_thought|>\n\\boxed{42}", "42"),
        (True, "<reasoning>\\boxed{7}</reasoning>\n<answer>42</answer>", "42"),
        (True, "42 <think>Is it \\boxed{7}?</think>", "42"),
        (
            True,
            "<|channel|>analysis<|message|>\\boxed{7}<|end|><|start|>assistant"
            "<|channel|>final<|message|>42<|return|>",
            "42",
        ),
    ],
    "words": [
        (True, "The answer is Paris", "Paris"),
        (True, "The answer is yes.", "yes"),
        (True, "The answer is yes. It has to be.", "YES"),
        (True, "The answer is St. Louis.", "St. Louis"),
        (False, r"\boxed{silent}", "listen"),
        (False, r"\boxed{BA}", "AB"),
        (False, "It is 24", "no solution"),
        (True, "Answer key", "Answer key"),
        (False, "Answer key", "key"),
        (True, r"\boxed{\text{New York}}", "new  york"),
        (False, r"\boxed{no}", "on"),
    ],
    "letters of a choice": [
        (True, "The answer is (A)", "A"),
        (True, "**Answer:** B", "B"),
        (True, r"\boxed{\text{B}}", "B"),
        (True, r"$\boxed{\textbf{(C)}}$", "C"),
        (True, "The correct answer is B. Because", "(B)"),
        (True, "The correct option is (B) Paris.", "B"),
        (True, "Answer: (B) Paris", "Paris"),
        (False, "Answer: (B) Paris", "A"),
        (False, "A", "B"),
        (True, r"\boxed{\textbf{(D) } 42}", "D"),
        (True, r"\boxed{\textbf{(D)}\ 42}", "42"),
        (True, "A and C", "C, A"),
    ],
    "dates, times and ratios": [
        (False, r"\boxed{2017}", "2023-05-01"),
        (True, r"\boxed{2023-05-01}", "2023-05-01"),
        (False, r"\boxed{2:5}", "4:10"),
        (True, "2 : 5", "2:5"),
        (False, "0.4", "2:5"),
        (False, "1/2", "1/2/2024"),
        (True, "10:30 am", "10:30 AM"),
    ],
    "units and currency": [
        (True, "5 cm", "5"),
        (True, "5", "5 cm"),
        (True, r"\boxed{5\text{ cm}}", "5 centimeters"),
        (False, "5 cm", "5 m"),
        (False, r"\boxed{5}", "5x"),
        (True, "It costs $5.", "5"),
        (True, r"\boxed{\$1,234.50}", "$1234.5"),
        (False, "€5", "$5"),
        (True, "50%", "50"),
        (True, r"\boxed{50\%}", "0.5"),
        (True, "0.5", "50%"),
        (False, "0.5", "50"),
        (True, "So there are 42 apples.", "42"),
        (True, r"\boxed{90^\circ}", "90"),
        (True, "60 km/h", "60 km per hour"),
        (True, "100°", "100 degrees"),
        (False, "100°C", "100°F"),
    ],
    "Unicode": [
        (True, "４２", "42"),
        (True, "−42", "-42"),
        (True, "–42", "-42"),
        (True, "x² + 1", "x^2+1"),
        (True, "2 × 3", "6"),
        (True, "\u00a042\u00a0", "42"),
        (True, "4\u200b2", "42"),
        (True, "2π", r"2\pi"),
        (True, "√2", r"\sqrt{2}"),
        (True, "“Paris”", "Paris"),
        (True, "٤٢", "42"),
        (True, "٣٫٥", "3.5"),
    ],
    "sentences and emphasis": [
        (True, "**42**", "42"),
        (True, "The answer is: 42.", "42"),
        (True, "**The final answer is 42.**", "42"),
        (True, "Final Answer: The final answer is $42$. I hope it is correct.", "42"),
        (True, "**Final Answer**\n\n$$42$$", "42"),
        (True, "**Answer:**\n\\[\n\\frac{1}{2}\n\\]", "0.5"),
        (True, "It takes 5 steps.\n#### 42", "42"),
        (True, "42", "He has 6*7 = 42.\n#### 42"),
        (True, "Answer: 42\n\nLet me know if you have more questions!", "42"),
        (True, "```\n42\n```", "42"),
        (True, "so $x = 42$ follows", "42"),
        (True, "Answer: 42 (since 6*7=42)", "42"),
        (True, "The area is $25\\pi$ cm$^2$.", "25\\pi"),
        (True, r"\[\begin{aligned}x &= 42\end{aligned}\]", "42"),
        (False, "It is not 42.", "42"),
        (False, "no idea", "4"),
        (False, "", "4"),
    ],
    "lists, sets and intervals": [
        (True, "x = 1 or x = 2", "1, 2"),
        (True, r"\boxed{2, 1}", "1, 2"),
        (True, r"\boxed{\pm 3}", "-3, 3"),
        (True, r"\boxed{1 \pm \sqrt{2}}", r"1+\sqrt{2}, 1-\sqrt{2}"),
        (False, r"\boxed{1}", "1, 2"),
        (False, r"\boxed{1, 2, 3}", "1, 2"),
        (True, r"\boxed{(1, 2)}", "(1,2)"),
        (False, r"\boxed{(2, 1)}", "(1,2)"),
        (True, r"\boxed{\left[0, \frac12\right)}", "[0, 0.5)"),
        (False, r"\boxed{[0, 0.5]}", "[0, 0.5)"),
        (True, r"\boxed{\{1, 2\}}", r"\{2, 1\}"),
        (True, r"\boxed{(-\infty, 3)}", "(-inf, 3)"),
        (True, r"\boxed{(1,2)\cup(3,4)}", r"(1, 2) \cup (3, 4)"),
    ],
    "formulas": [
        (True, r"\boxed{x + 1}", "1+x"),
        (True, r"\boxed{2xy}", "2yx"),
        (False, r"\boxed{x + 1}", "x - 1"),
        (True, r"\boxed{\frac{\sqrt{2}}{2}}", r"1/\sqrt{2}"),
        (True, "sqrt(2)/2", r"\frac{\sqrt{2}}{2}"),
        (True, "0.707107", r"\frac{\sqrt{2}}{2}"),
        (True, r"\boxed{y = 2x + 1}", "2x+1"),
        (True, r"\boxed{2x+1}", "y = 2x + 1"),
        (False, "x = 5", "y = 5"),
        (True, r"\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}", MATRIX),
        (False, r"\boxed{x}", "y"),
        (True, r"\boxed{\log_2 8}", "3"),
        (True, r"\boxed{(x+1)(x-1)}", "x^2 - 1"),
    ],
}  # fmt: skip
ROWS = [(kind, *row) for kind, rows in TABLE.items() for row in rows]


@pytest.mark.parametrize(("kind", "right", "text", "answer"), ROWS)
def test_verdicts(kind: str, right: bool, text: str, answer: str) -> None:
    pytest.importorskip("math_verify")
    assert load_checker("math-verify")(text, answer) is right
    assert reference(answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("4", "so <answer> 3 </answer> or <answer>4</answer>"),
        ("42", "<answer>5</answer>, no: \\boxed{42}"),
        ("7", "\\boxed{7}, that is \\boxed{"),
        ("3.5 m", "So the answer is 3.5 m. Done."),
        ("B", r"\boxed{\text{B}}"),
        ("Answer key", "Answer key"),
        ("", "<think>42"),
        ("1. Paris", "1. Paris"),
        ("2**3", "2**3"),
        ("a b\n  c", "<answer>a b\n  c</answer>"),
    ],
)
def test_the_final_answer_is_the_same_for_all_checkers(answer: str, text: str) -> None:
    assert final_answer(text) == answer
    assert exact(text, answer or "-") is bool(answer)


@pytest.mark.parametrize(
    "part",
    [
        "<think>",
        "\\boxed{",
        "<answer>",
        "$",
        "**",
        "the answer is ",
        "{",
        "answer ",
        "so ",
        "1/",
        "- ",
    ],
)
def test_no_text_takes_long(part: str) -> None:
    for text in (part * 20_000, f"{part * 10_000}\\boxed{{{part * 200}}}"):
        start = time.process_time()
        final_answer(text)
        plain(text)
        assert time.process_time() - start < 2
