"""Small talk: what people say to an assistant and what it answers. Wordings are held out, not topics."""

from training import texts, values
from training.case import Case, assistant, user
from training.source import Source

PAIRS = texts.talk()
MEETINGS = (
    ("My name is {name}.", "Nice to meet you, {name}!"),
    ("I am {name}.", "Nice to meet you, {name}!"),
    ("Hi, I am {name}.", "Hello {name}, nice to meet you!"),
    ("Hello, my name is {name}.", "Hello {name}, nice to meet you!"),
    ("Call me {name}.", "All right, {name}."),
    ("You can call me {name}.", "All right, {name}."),
    ("Hello, I am {name}.", "Hello {name}, nice to meet you!"),
    ("Hi, my name is {name}.", "Hello {name}, nice to meet you!"),
)

LEADS = texts.phrases("leads")


def pair(s: Source) -> tuple[str, str]:
    """What is said and the answer."""
    ways, reply = s.pick(PAIRS)
    said = s.frame("talk", LEADS, ways)
    return (said if s.chance(0.8) else said.lower()) + s.pick(("", "", "", "!", " :)")), reply


def talk(s: Source, thinking: bool) -> Case:
    """A few exchanges; sometimes the user gives a name and asks for it later."""
    messages = []
    name = ""
    reply = ""
    for _ in range(s.pick((1, 1, 2, 3, 4))):
        if not name and s.chance(0.3):
            name = values.first_name(s)
            said = s.frame("meeting", LEADS, [way for way, _ in MEETINGS])
            reply = next(reply for way, reply in MEETINGS if said.endswith(way))
            said, reply = said.format(name=name), reply.format(name=name)
        elif name and s.chance(0.4):
            said = s.frame(
                "my name",
                LEADS,
                [
                    "What is my name?",
                    "Do you know my name?",
                    "who am I?",
                    "Say my name",
                    "What am I called?",
                    "Tell me my name",
                ],
            )
            reply = f"Your name is {name}."
        else:
            said, reply = pair(s)
        messages += [user(said), assistant(reply, "I answer politely." if thinking else "")]
    return Case("talk", messages, {"kind": "exact", "text": reply}, None, thinking, s.used)
