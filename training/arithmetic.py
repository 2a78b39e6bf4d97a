"""Sums worked out digit by digit in the thinking block, and word problems. A sum belongs to one split."""

from training import smalltalk, texts, values
from training.case import Case, assistant, user
from training.source import Source


def _add(a: int, b: int) -> str:
    """Column addition from the right: `7+6=13 write 3 carry 1`."""
    left, right = str(a), str(b)
    width = max(len(left), len(right))
    left, right = left.rjust(width, "0"), right.rjust(width, "0")
    steps, carry = [], 0
    for x, y in zip(reversed(left), reversed(right), strict=True):
        total = int(x) + int(y) + carry
        steps.append(f"{x}+{y}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return "; ".join(steps) + f". So {a} + {b} = {a + b}."


def _subtract(a: int, b: int) -> str:
    """Column subtraction from the right, a >= b: `3-8=-5 borrow 5`."""
    left = str(a)
    right = str(b).rjust(len(left), "0")
    steps, borrow = [], 0
    for x, y in zip(reversed(left), reversed(right), strict=True):
        total = int(x) - int(y) - borrow
        digit = total % 10
        steps.append(f"{x}-{y}{f'-{borrow}' if borrow else ''}={total}{f' so {digit}' if total < 0 else ''}")
        borrow = 1 if total < 0 else 0
    return "; ".join(steps) + f". So {a} - {b} = {a - b}."


def _multiply(a: int, b: int) -> str:
    """A times one digit, column by column."""
    steps, carry = [], 0
    for x in reversed(str(a)):
        total = int(x) * b + carry
        steps.append(f"{x}*{b}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return "; ".join(steps) + f". So {a} * {b} = {a * b}."


ASKS = texts.phrases("sum asks")
WORDS = {"+": "plus", "-": "minus", "*": "times"}
STORIES = {operator: texts.phrases(f"problem {word}") for operator, word in WORDS.items()}


def sums(s: Source, thinking: bool) -> Case:
    """One to four sums in a conversation; the last one is judged by its answer."""
    messages = []
    result = 0
    for _ in range(s.pick((1, 2, 3, 4)) if s.split == "train" else 1):
        text, thought, result = _one(s)
        messages += [user(text), assistant(f"{result}", thought)]
    case = Case("arithmetic", messages, {"kind": "exact", "text": f"{result}"}, None, True, s.used)
    del thinking  # sums are always thought about
    return case


def _one(s: Source) -> tuple[str, str, int]:
    operator = s.pick("++--*")
    digits = s.pick((1, 2, 2, 3, 3, 4))

    def draw() -> str:
        a = s.rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)
        if operator == "*":
            return f"{a} * {s.rng.randint(2, 9)}"
        b = s.rng.randint(0, 10 ** s.rng.randint(1, digits) - 1)
        return f"{max(a, b)} {operator} {min(a, b)}" if operator == "-" or s.chance(0.5) else f"{b} {operator} {a}"

    expression = s.owned(draw, "sum")
    left, _, right = expression.split()
    a, b = int(left), int(right)
    work = {"+": _add, "-": _subtract, "*": _multiply}[operator](a, b)
    result = {"+": a + b, "-": a - b, "*": a * b}[operator]
    if s.chance(0.35):
        text = s.frame("problem", smalltalk.LEADS, STORIES[operator])
        return text.format(n=values.first_name(s), a=a, b=b, o=s.listed("food")), f"{expression}: {work}", result
    shown = expression if s.chance(0.7) else f"{a} {WORDS[operator]} {b}"
    return s.frame("sum", smalltalk.LEADS, ASKS).format(e=shown), f"{expression}: {work}", result
