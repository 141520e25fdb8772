"""A small bank of questions for the tests of quiz, exam and review, in place of the real one."""

import sqlite3

from scratchvae.practice import content

QUESTION = """
[[question]]
id = "{id}"
topic = "{topic}"
kind = "{kind}"
lesson = "{lesson}"
{more}
[question.text]
en = "What is {id}?"
ja = "{id}は何ですか。"
[question.why]
en = "Because of {id}."
ja = "{id}だからです。"
[[question.option]]
en = "wrong one"
ja = "誤り1"
[[question.option]]
en = "wrong two"
ja = "誤り2"
[[question.option]]
en = "the right one"
ja = "正しい"
right = true
[[question.option]]
en = "wrong four"
ja = "誤り4"
"""
PASSAGE = """
[[passage]]
id = "{id}"
en = "A story about {id}."
ja = "{id}の話です。"
"""
RIGHT = 2  # the index of the right option in each


def question(id, topic="vae", kind="concept", lesson="12_vae", more=""):
    """One question as TOML; its third option is right."""
    return QUESTION.format(id=id, topic=topic, kind=kind, lesson=lesson, more=more)


def linked(passage, n=3, topic="elbo"):
    """A passage and its questions, passage-1 to passage-n."""
    more = f'passage = "{passage}"'
    return PASSAGE.format(id=passage) + "".join(
        question(f"{passage}-{i + 1}", topic, "linked", "11_elbo", more) for i in range(n)
    )


def use(monkeypatch, folder, *texts):
    """Let the quiz read these texts, a file each, and nothing else; return the paths."""
    paths = [folder / f"bank{number}.toml" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    files = content.files
    monkeypatch.setattr(content, "files", lambda name: paths if name == "quiz" else files(name))
    return paths


def rows(path, query):
    """What a query finds in a state file."""
    with sqlite3.connect(path) as database:
        found = database.execute(query).fetchall()
    database.close()
    return found
