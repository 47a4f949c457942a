import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stillroom.raft.quotations import found

PASSAGE = (
    "# Ferry rules\n\nThe bell is rung\nthree times -- before the “ferry” leaves. "
    "A seat costs **12.50** coins… and\n- *never* less.\n- `lora_r` is the rank; it isn't C++."
)


def words(quotation, passage=PASSAGE):
    spans = found(quotation, passage)
    return spans and [passage[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("quotation", "own"),
    [
        ("rung three  times", ["rung\nthree times"]),
        ('RUNG THREE TIMES – before the "ferry" leaves', ["rung\nthree times -- before the “ferry” leaves"]),
        ("before the 'ferry' leaves.", ["before the “ferry” leaves."]),
        ("A seat costs 12.50 coins... and never less", ["A seat costs **12.50** coins… and\n- *never* less"]),
        ("never less", ["*never* less"]),
        ("and never less..", ["and\n- *never* less."]),
        ("“ferry’ leaves. A", ["“ferry” leaves. A"]),
        ("lora_r is the rank", ["`lora_r` is the rank"]),
        ("loraR is the rank", ["`lora_r` is the rank"]),
        ("it isn’t C++!", ["it isn't C++"]),
        ("costs 12.50 coins.", ["costs **12.50** coins"]),
        ("Ferry rules The bell is rung", ["Ferry rules\n\nThe bell is rung"]),
        ("The bell is rung three times ... leaves", ["The bell is rung\nthree times", "leaves"]),
        ("The bell […] costs 12.50 coins", ["The bell", "costs **12.50** coins"]),
        ("leaves … the bell", None),
        ("costs 1250 coins", None),
        ("costs 12,50 coins", None),
        ("ell is rung", None),
        ("the bell is rung four times", None),
        ("…", None),
        ("", None),
    ],
)
def test_the_passages_own_words(quotation, own):
    assert words(quotation) == own


TEXT = st.text(st.sampled_from("abcÄß 12.,-–—“”\"'’…*_`\n#>éﬁ"), max_size=60)


@given(TEXT, st.data())
def test_a_part_that_is_dressed_otherwise_is_found(passage, data):
    """Against an oracle: the words of a slice, written in another way, are found at those words."""
    tokens = list(re.finditer(r"\S+", passage))
    assume(tokens)
    first = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(first, len(tokens) - 1))
    part = passage[tokens[first].start() : tokens[last].end()]
    plain = part.replace("–", "-").replace("—", "-").replace("“", '"').replace("”", '"').replace("’", "'")
    plain = " ".join(plain.replace("*", "").replace("_", "").replace("`", "").upper().split())
    assume(any(c.isalnum() for c in plain))
    spans = found(plain, passage)
    assert spans is not None
    own = "".join(passage[start:end] for start, end in spans)
    assert bare(own) == bare(part) or bare(own) == bare(part.strip(" \"'“”’…,.-–—"))


def bare(text):
    """Letters and digits."""
    return [c for c in text.upper() if c.isalnum()]


@given(st.text(max_size=40), TEXT)
def test_whatever_is_found_is_there(quotation, passage):
    spans = found(quotation, passage) or []
    assert all(0 <= start < end <= len(passage) for start, end in spans)
    assert spans == sorted(spans)
