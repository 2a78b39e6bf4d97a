"""Questions about a given paragraph: facts about a few people, asked in other words."""

from training import smalltalk, texts, values
from training.case import Case, assistant, user
from training.source import Source

# (sentence, questions, answer). {n} the person, {v} the fact. The last question is the test's.
FACTS = (
    (
        "{n} lives in {v}.",
        (
            "Where does {n} live?",
            "In which city does {n} live?",
            "What is the home of {n}?",
            "{n} lives where?",
            "Where is the home of {n}?",
            "Which city does {n} live in?",
        ),
        values.city,
    ),
    (
        "{n} works as a {v}.",
        (
            "What does {n} do?",
            "What is the job of {n}?",
            "What does {n} work as?",
            "Which job has {n}?",
            "What is the work of {n}?",
            "Which job does {n} do?",
        ),
        lambda s: s.listed("job"),
    ),
    (
        "{n} has a {v} at home.",
        (
            "Which animal does {n} have?",
            "What animal does {n} have at home?",
            "What pet has {n}?",
            "Which pet does {n} have?",
            "Which animal has {n}?",
            "What pet does {n} have?",
        ),
        lambda s: s.listed("animal"),
    ),
    (
        "{n} loves {v}.",
        (
            "What does {n} love?",
            "What does {n} like most?",
            "What food does {n} love?",
            "{n} loves what?",
            "Which food does {n} like?",
            "Which food does {n} love?",
        ),
        lambda s: s.listed("food"),
    ),
    (
        "{n} was born in {v}.",
        (
            "Where was {n} born?",
            "In which city was {n} born?",
            "What is the birthplace of {n}?",
            "{n} was born where?",
            "Which is the birthplace of {n}?",
            "Which city was {n} born in?",
        ),
        values.city,
    ),
    (
        "{n} is {v} years old.",
        (
            "How old is {n}?",
            "What is the age of {n}?",
            "Age of {n}?",
            "How many years old is {n}?",
            "Which age has {n}?",
            "Tell me the age of {n}.",
        ),
        lambda s: str(s.rng.randint(3, 99)),
    ),
    (
        "The best friend of {n} is {v}.",
        (
            "Who is the best friend of {n}?",
            "Name the best friend of {n}.",
            "What is the name of the best friend of {n}?",
            "{n} is best friends with whom?",
            "Tell me the best friend of {n}.",
            "Who is {n} best friends with?",
        ),
        values.first_name,
    ),
    (
        "{n} carries a {v}.",
        (
            "What does {n} carry?",
            "What is {n} carrying?",
            "Which thing does {n} carry?",
            "{n} carries what?",
            "What thing does {n} carry?",
            "Tell me what {n} carries.",
        ),
        values.thing,
    ),
    (
        "The secret word of {n} is {v}.",
        (
            "What is the secret word of {n}?",
            "Tell me the secret word of {n}.",
            "Which secret word has {n}?",
            "Secret word of {n}?",
            "Which word is the secret word of {n}?",
            "Which is the secret word of {n}?",
        ),
        lambda s: s.made_up(),
    ),
    (
        "{n} arrives on {v}.",
        (
            "When does {n} arrive?",
            "On which day does {n} arrive?",
            "What is the arrival date of {n}?",
            "{n} arrives when?",
            "On which date will {n} arrive?",
            "On which date does {n} arrive?",
        ),
        values.date,
    ),
)
UNKNOWN = "The text does not say."
INTROS = texts.phrases("intros")
PARAGRAPHS = texts.phrases("intro paragraphs")


def questions(s: Source, thinking: bool) -> Case:
    """Two or three people with two to four facts each, one to five questions; some have no answer in the text."""
    people = list(dict.fromkeys(values.first_name(s) for _ in range(s.pick((1, 2, 2, 3)))))
    known = {}
    sentences = []
    for name in people:
        for index in s.some(range(len(FACTS)), s.pick((2, 3, 4))):
            known[name, index] = FACTS[index][2](s)
            sentences.append(FACTS[index][0].format(n=name, v=known[name, index]))
    if s.chance(0.5):
        s.rng.shuffle(sentences)
    messages = []
    answer = ""
    for turn in range(s.rng.randint(1, 5)):
        name, index = s.pick(list(known)) if s.chance(0.87) else (s.pick(people), s.rng.randrange(len(FACTS)))
        question = s.frame("question", smalltalk.LEADS, FACTS[index][1]).format(n=name)
        answer = _answer(index, name, known[name, index]) if (name, index) in known else UNKNOWN
        intro = f"{s.frame('paragraph', INTROS, PARAGRAPHS)}\n\n{' '.join(sentences)}\n\n" if turn == 0 else ""
        messages += [user(intro + question), assistant(answer, "I look for it in the text." if thinking else "")]
    return Case("paragraph", messages, {"kind": "exact", "text": answer}, None, thinking, s.used)


def _answer(index: int, name: str, value: str) -> str:
    return FACTS[index][0].format(n=name, v=value)
