"""Look-ups in a table that the user gives: a cell, a row by its value, several questions about one table."""

from training import texts, values
from training.case import Case, assistant, user
from training.source import Source

COLUMNS = (
    ("price", values.decimal),
    ("stock", values.integer),
    ("city", values.city),
    ("owner", values.first_name),
    ("code", values.code),
    ("date", values.date),
    ("colour", lambda s: s.listed("colour")),
    ("weight", values.integer),
)
LEADS = texts.phrases("look-up leads")
CELL = texts.phrases("look-up cell")
ROW_LEADS = texts.phrases("look-up row leads")
ROW = texts.phrases("look-up row")
ENDS = ("?", ".", "", "?", " please.", ", please?")
INTROS = texts.phrases("intros")
TABLES = texts.phrases("intro tables")


def lookup(s: Source, thinking: bool) -> Case:
    """One table, one to five questions; the answer is the cell alone."""
    key = s.pick(("name", "item", "product", "id"))
    columns = dict(s.some(COLUMNS, s.pick((1, 2, 2, 3))))
    if s.chance(0.1):
        columns[s.made_up()] = s.pick((values.word, values.integer))
    rows: dict[str, dict[str, str]] = {}
    wanted = s.rng.randint(2, 6)
    while len(rows) < wanted:
        rows[s.made_up() if s.chance(0.6) else s.listed("thing")] = {c: str(draw(s)) for c, draw in columns.items()}
    table = _layout(s, key, list(columns), rows)
    messages = []
    answer = ""
    for turn in range(s.rng.randint(1, 5)):
        question, answer, row = _question(s, key, list(columns), rows)
        thought = f"{key} {row}, " + ", ".join(f"{c} {v}" for c, v in rows[row].items()) if thinking else ""
        intro = f"{s.frame('table', INTROS, TABLES)}\n\n{table}\n\n" if turn == 0 else ""
        messages += [user(intro + question), assistant(answer, thought)]
    return Case("table", messages, {"kind": "exact", "text": answer}, None, thinking, s.used)


def _question(s: Source, key: str, columns: list[str], rows: dict[str, dict[str, str]]) -> tuple[str, str, str]:
    """The question, its answer and the row it is about."""
    row, column = s.pick(list(rows)), s.pick(columns)
    value = rows[row][column]
    if s.chance(0.3) and sum(cells[column] == value for cells in rows.values()) == 1:
        return _asked(s, ROW_LEADS, ROW).format(k=key, c=column, v=value), row, row
    return _asked(s, LEADS, CELL).format(c=column, r=row), value, row


def _asked(s: Source, leads: tuple[str, ...], forms: tuple[str, ...]) -> str:
    return s.frame("look up", leads, forms) + s.pick(ENDS)


def _layout(s: Source, key: str, columns: list[str], rows: dict[str, dict[str, str]]) -> str:
    """Markdown, CSV or one line a row."""
    header = [key, *columns]
    lines = [[row, *cells.values()] for row, cells in rows.items()]
    form = s.rng.randrange(3)
    if form == 0:
        return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])
    if form == 1:
        return "\n".join(",".join(line) for line in [header, *lines])
    return "\n".join(
        line[0] + ": " + ", ".join(f"{c} {v}" for c, v in zip(columns, line[1:], strict=True)) for line in lines
    )
