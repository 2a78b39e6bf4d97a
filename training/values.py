"""Values that appear in requests, texts and tables: names, places, dates, codes, sentences. All belong to one split.

Each function draws from a Source. Knows no tools and no prompts.
"""

from training import words
from training.source import Source


def first_name(s: Source) -> str:
    return s.listed("first name") if s.chance(0.5) else s.made_up(2).capitalize()


def person(s: Source) -> str:
    """First name and a made-up surname; one in four the first name alone."""
    name = first_name(s)
    return name if s.chance(0.25) else f"{name} {s.made_up(2).capitalize()}"


def city(s: Source) -> str:
    if s.chance(0.5):
        return s.listed("city")
    name = s.made_up(2).capitalize()
    return s.pick(("Port ", "San ", "New ", "Lake ")) + name if s.chance(0.15) else name


def date(s: Source) -> str:
    return s.owned(lambda: f"20{s.rng.randint(24, 39)}-{s.rng.randint(1, 12):02}-{s.rng.randint(1, 28):02}", "date")


def time(s: Source) -> str:
    return s.owned(lambda: f"{s.rng.randint(0, 23):02}:{s.rng.randint(0, 59):02}", "time")


def code(s: Source) -> str:
    """An identifier such as KX-4821, b7e2f or order_318."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"

    def draw() -> str:
        form = s.rng.randrange(4)
        if form == 0:
            return "".join(s.pick(letters) for _ in range(2)) + f"-{s.rng.randint(100, 9999)}"
        if form == 1:
            return "".join(s.pick("0123456789abcdef") for _ in range(s.rng.randint(5, 8)))
        if form == 2:
            return f"{s.pick(letters)}{s.rng.randint(10, 9999)}"
        return f"{s._syllables(1)}_{s.rng.randint(10, 9999)}"

    return s.owned(draw, "code")


def email(s: Source) -> str:
    name = s.made_up(2) if s.chance(0.5) else f"{first_name(s).lower()}.{s.made_up(2)}"
    return f"{name}@{s.made_up(2)}.{s.pick(words.DOMAINS)}"


def path(s: Source) -> str:
    folder = f"/{s.made_up(2)}" if s.chance(0.6) else ""
    return f"{folder}/{s.made_up(2)}_{s.rng.randint(1, 99)}.{s.pick(words.EXTENSIONS)}"


def url(s: Source) -> str:
    return f"https://{s.made_up(2)}.{s.pick(words.DOMAINS)}/{s.made_up(2)}"


def phone(s: Source) -> str:
    return s.owned(lambda: f"+{s.rng.randint(1, 99)} {s.rng.randint(100, 999)} {s.rng.randint(1000, 9999)}", "phone")


def decimal(s: Source, high: int = 900) -> float:
    """A number with one or two decimals, never whole."""
    places = s.pick((1, 1, 2))

    def draw() -> str:
        value = round(s.rng.uniform(0.1, high), places)
        return str(value) if value != int(value) else str(value + 0.5)

    return float(s.owned(draw, "decimal"))


def integer(s: Source) -> int:
    """Mostly small, sometimes of up to five digits."""
    high = s.pick((9, 30, 99, 999, 9999, 99999))
    return s.number(1 if high < 1000 else 100, high)


def thing(s: Source) -> str:
    """One or two words for an object: `lantern`, `silver lantern`, `zorvel`."""
    noun = s.listed("thing") if s.chance(0.5) else s.made_up()
    return f"{s.listed('adjective')} {noun}" if s.chance(0.3) else noun


def sentence(s: Source) -> str:
    """A short line somebody could want written down, without a full stop."""
    if s.chance(0.3):
        return _salad(s)
    name, item, place = first_name(s), thing(s), city(s)
    line = s.template(
        "sentence",
        [
            "{name} will bring the {item}",
            "the {item} is ready",
            "call {name} about the {item}",
            "meet {name} in {place}",
            "I left the {item} in {place}",
            "buy {food} and {food2}",
            "the {item} from {place} is late",
            "thank {name} for the {item}",
            "we need {food} for {name}",
            "do not forget the {item}",
            "{name} has moved to {place}",
            "the {adj} {item} is broken",
            "{name} wants {food}",
            "clean the {item} before {name} arrives",
            "sell the {item} in {place}",
            "{name} asked for the {adj} {item}",
            "pick up {food} for {name}",
            "{name} lost the {item} in {place}",
            "send the {item} to {place}",
            "bring {food} to {place}",
        ],
    )
    line = line.format(
        name=name, item=item, place=place, food=s.listed("food"), food2=s.listed("food"), adj=s.listed("adjective")
    )
    return line[0].upper() + line[1:] if s.chance(0.5) else line


_LISTS = ("noun", "thing", "adjective", "food", "animal", "job", "colour", "first name", "city")


def _salad(s: Source) -> str:
    """Words in no order anyone could guess: whoever repeats them has to read them."""
    parts = []
    for _ in range(s.rng.randint(3, 6)):
        form = s.rng.random()
        if form < 0.25:
            parts.append(s.pick(words.GLUE))
        elif form < 0.6:
            parts.append(s.pick(words.COMMON))
        elif form < 0.7:
            parts.append(s.made_up())
        else:
            parts.append(s.listed(s.pick(_LISTS)))
    line = " ".join(parts)
    return line[0].upper() + line[1:] if s.chance(0.5) else line


def label(s: Source) -> str:
    """A short title or label of one to three words."""
    form = s.rng.randrange(4)
    if form == 0:
        return s.made_up()
    if form == 1:
        return f"{s.listed('adjective')} {s.made_up()}"
    if form == 2:
        return f"{s.made_up().capitalize()} {s.listed('noun')}"
    return f"{s.listed('adjective')} {s.listed('thing')}"


def word(s: Source) -> str:
    """One word, of a list or made up."""
    return s.made_up() if s.chance(0.6) else s.listed(s.pick(("thing", "food", "animal", "colour")))
