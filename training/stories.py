"""Short stories from a small grammar: a hero, a thing, a problem, help, an end. The user names the heroes."""

from training import smalltalk, texts, values
from training.case import Case, assistant, user
from training.source import Source

ASKS = texts.phrases("story asks")
OPENINGS = texts.phrases("story openings")
PROBLEMS = texts.phrases("story problems")
MEETINGS = texts.phrases("story meetings")
TALKS = texts.phrases("story talks")
ACTS = texts.phrases("story acts")
ENDS = texts.phrases("story ends")


def story(s: Source, thinking: bool) -> Case:
    """Two heroes: an animal and a person, or two animals. Six to eight sentences."""
    animal = s.listed("animal")
    name = values.first_name(s)
    other = s.listed("animal")
    heroes = (
        [(_a(animal), "the " + animal), (name, name)]
        if s.chance(0.6)
        else [(_a(animal), "the " + animal), (_a(other), "the " + other)]
    )
    if animal == other:
        heroes[1] = (name, name)
    s.rng.shuffle(heroes)
    (a_new, a), (b_new, b) = heroes
    filled = {
        "A": a_new,
        "a": a,
        "B": b_new,
        "b": b,
        "place": values.city(s),
        "thing": s.listed("thing"),
        "food": s.listed("food"),
        "made": s.made_up().capitalize(),
        "he": "it" if a.startswith("the ") else a,
        "He": "It" if a.startswith("the ") else a,
        "his": "its" if a.startswith("the ") else "the",
    }
    parts = [
        s.pick(OPENINGS),
        s.pick(PROBLEMS),
        s.pick(MEETINGS),
        s.pick(TALKS),
        s.pick(ACTS),
        *s.some(ENDS, s.pick((1, 2))),
    ]
    sentences = [part.format(adj=s.listed("adjective"), **filled) for part in parts]
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    asked = s.frame("story", smalltalk.LEADS, ASKS).format(a=a_new, b=b_new)
    thought = f"A story about {a_new} and {b_new}." if thinking else ""
    heroes_said = [a.removeprefix("the "), b.removeprefix("the ")]
    return Case(
        "story",
        [user(asked), assistant(text, thought)],
        {"kind": "text", "contains": heroes_said},
        None,
        thinking,
        s.used,
    )


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun
