"""Titles of conversations, out of a message's words and out of a model's answer."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.titles import MAX_CHARS, clean_title, title_of_words


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("How do I configure an MCP server in chatserver?", "Configure an MCP server"),
        ("what's the difference between SSE and WebSockets", "Difference between SSE and WebSockets"),
        ("Please explain CORS", "Please explain CORS"),
        ("What is a session?", "What is a session"),
        ("please help me with my python code", "My python code"),
        ("how do you do", "How do you do"),
        ("hi", "Hi"),
        ("\n\n# A heading\nand the rest", "A heading"),
        ("read https://example.org/secret?token=abc for me please now", "Read for me please now"),
        ("[the handbook](https://example.org/x) in one page", "Handbook in one page"),
        ("```python\nimport os\n```\nwhy does this fail", "Why does this fail"),
        ('/tool time.convert {"from": "UTC"}', "Time.convert from UTC"),
        ("你好\uff0c今天天气怎么样", "你好 今天天气怎么样"),
        ("Write C++ code for x-ray images", "Write C++ code for x-ray"),
    ],
)
def test_a_message_gives_its_first_words_that_say_something(message: str, title: str) -> None:
    """Polite openings, code, addresses and commands are passed over."""
    assert title_of_words(message) == title


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("What time is it in Tokyo?", "Time in Tokyo"),
        ("What's the time in New York right now?", "Time in New York"),
        ("What's the weather like in Berlin today?", "Weather in Berlin today"),
        ("What is the capital of France?", "Capital of France"),
        ("What is the difference between a list and a tuple in Python?", "Difference between list and tuple"),
        ("How do I center a div?", "Center a div"),
        ("How do I install Docker on Ubuntu?", "Install Docker on Ubuntu"),
        ("How does a stream resume?", "How does a stream resume"),
        ("How can I learn Spanish quickly?", "Learn Spanish quickly"),
        ("How much does a flight to Rome cost?", "Price of flight to Rome"),
        ("Why is the sky blue?", "Why is the sky blue"),
        ("Who won the World Cup in 2022?", "Who won the World Cup"),
        ("Can you write a poem about autumn?", "Write a poem about autumn"),
        ("Can you help me with my homework?", "Help me with my homework"),
        ("Could you please explain how photosynthesis works?", "How photosynthesis works"),
        ("Write a Python function to reverse a string", "Write a Python function"),
        ("Write an email to my landlord about the heating", "Write an email"),
        ("Explain quantum computing to a beginner", "Quantum computing to a beginner"),
        ("Translate this sentence to German: I am hungry", "Translate this sentence to German"),
        ("Summarize this article for me", "Summarize this article"),
        ("Help me plan a trip to Italy", "Plan a trip to Italy"),
        ("I need help with my resume", "Help with my resume"),
        ("I want to learn how to cook", "Learn how to cook"),
        ("Fix this bug in my code", "Fix this bug"),
        ("Tell me a joke", "Tell me a joke"),
        ("Give me ideas for a birthday party", "Ideas for a birthday party"),
        ("What should I cook tonight?", "What should I cook tonight"),
        ("Is it safe to eat raw eggs?", "Safe to eat raw eggs"),
        ("Recommend some good science fiction books", "Good science fiction books"),
        ("Hello, how are you?", "Hello how are you"),
        ("Hi", "Hi"),
        ("Wie spät ist es in Tokio?", "Uhrzeit in Tokio"),
        ("Wie ist das Wetter heute in Berlin?", "Wetter heute in Berlin"),
        ("Was ist die Hauptstadt von Frankreich?", "Hauptstadt von Frankreich"),
        ("Was ist der Unterschied zwischen einer Liste und einem Tupel?", "Unterschied zwischen Liste und Tupel"),
        ("Wie zentriere ich ein div?", "Ein div zentrieren"),
        ("Wie installiere ich Docker unter Ubuntu?", "Docker unter Ubuntu installieren"),
        ("Wie funktioniert eine Wärmepumpe?", "Wie funktioniert eine Wärmepumpe"),
        ("Was kostet ein Flug nach Rom?", "Was kostet ein Flug"),
        ("Warum ist der Himmel blau?", "Warum ist der Himmel blau"),
        ("Wer hat die WM 2022 gewonnen?", "Wer hat die WM 2022"),
        ("Kannst du mir ein Gedicht über den Herbst schreiben?", "Gedicht über den Herbst"),
        ("Kannst du mir bei den Hausaufgaben helfen?", "Hilfe bei den Hausaufgaben"),
        ("Schreib eine Python-Funktion, die einen Text umdreht", "Python-Funktion die einen Text umdreht"),
        ("Schreibe eine E-Mail an meinen Vermieter", "E-Mail an meinen Vermieter"),
        ("Erkläre mir Quantencomputer", "Erkläre mir Quantencomputer"),
        ("Könntest du mir bitte erklären, wie Photosynthese funktioniert?", "Wie Photosynthese funktioniert"),
        ("Übersetze diesen Satz ins Englische", "Übersetze diesen Satz ins Englische"),
        ("Fasse diesen Artikel zusammen", "Fasse diesen Artikel zusammen"),
        ("Hilf mir, eine Reise nach Italien zu planen", "Reise nach Italien zu planen"),
        ("Ich brauche Hilfe bei meinem Lebenslauf", "Hilfe bei meinem Lebenslauf"),
        ("Ich möchte kochen lernen", "Ich möchte kochen lernen"),
        ("Finde den Fehler in meinem Code", "Finde den Fehler"),
        ("Erzähl mir einen Witz", "Erzähl mir einen Witz"),
        ("Gib mir Ideen für eine Geburtstagsfeier", "Ideen für eine Geburtstagsfeier"),
        ("Was soll ich heute kochen?", "Was soll ich heute kochen"),
        ("Welche Bücher kannst du empfehlen?", "Welche Bücher kannst du empfehlen"),
        ("Hallo, wie geht es dir?", "Hallo wie geht es dir"),
    ],
)
def test_what_people_ask_first_gets_the_title_that_a_person_would_write(message: str, title: str) -> None:
    """In English and German, without a model."""
    assert title_of_words(message) == title


@pytest.mark.parametrize("message", ["", "  \n ", "!!!", "200", "https://example.org/x", "```\ncode alone\n```"])
def test_a_message_without_words_gives_no_title(message: str) -> None:
    """The session stays "New Chat"."""
    assert title_of_words(message) is None


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Weather in Paris", "Weather in Paris"),
        ('"Title: Configuring MCP Servers."\n', "Configuring MCP Servers"),
        ("**Wetter in Paris**\n\nIch hoffe, das hilft!", "Wetter in Paris"),
        ("\n\n  Several   spaces\there ", "Several spaces here"),
        ("\u202eturned all around\u0007", "turned all around"),
        ("one two \u2013 \u2013 \u2013 six", None),
        ("Weather", None),
        ("Paris weather", None),
        ("Planning a weekend trip to the coast", "Planning a weekend trip"),
        ("How trains and planes compare, by price", "How trains and planes compare"),
        ("Six words are one too many", "Six words are one too"),
        ("东京的天气", "东京的天气"),
        ("天气", None),
        ("パリの天気について", "パリの天気について"),
        ("这是一个非常长的标题它不是标题而是一个完整的句子说明", None),
        ("สภาพอากาศในปารีส", "สภาพอากาศในปารีส"),
        ("Sure! Here is a title for the conversation you asked me about today", None),
        ("x" * 61, None),
        ("", None),
        ("...", None),
    ],
)
def test_a_models_answer_is_cleaned_or_refused(answer: str, title: str | None) -> None:
    """Decoration goes; a sentence is no title."""
    assert clean_title(answer) == title


@given(st.text(max_size=400))
def test_no_text_gives_a_title_that_breaks_a_list(text: str) -> None:
    """One line, short, nothing invisible, whatever a person or a model wrote."""
    for title in (title_of_words(text), clean_title(text)):
        if title is not None:
            assert 0 < len(title) <= MAX_CHARS
            assert title == " ".join(title.split())
            assert not any(unicodedata.category(c)[0] == "C" for c in title)


@given(st.lists(st.text("abcäß", min_size=1, max_size=8), max_size=10).map(" ".join))
def test_a_models_title_has_three_to_five_words(text: str) -> None:
    """As the list of sessions promises, whatever the model was asked for."""
    title = clean_title(text)
    assert title is None or 3 <= len(title.split()) <= 5
