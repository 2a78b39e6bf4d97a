"""Word lists and the sounds of made-up words."""

from training import texts

LISTS = {
    name: texts.words(name)
    for name in ("first name", "city", "noun", "adjective", "animal", "food", "job", "thing", "colour")
}
COMMON = texts.words("common")
GLUE = texts.words("glue")
ONSETS = texts.words("onsets")
NUCLEI = texts.words("nuclei")
CODAS = ("", "", "l", "n", "r", "s", "x", "m", "k", "nd", "th", "st", "ra", "lo")
DOMAINS = ("com", "org", "net", "io")
EXTENSIONS = ("pdf", "txt", "csv", "png", "docx", "json", "log")
