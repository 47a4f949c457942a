import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.cleaning.redaction import redact

ALNUM = "a1B2c3D4e5F6g7H8i9J0"
HEX = "0123456789abcdef" * 4
ARMOUR = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----"
SECRETS = [
    "AKIA" + "IOSFODNN7EXAMPLE",
    "AIza" + (ALNUM * 2)[:35],
    "ghp_" + (ALNUM * 2)[:36],
    "github_pat_" + ALNUM * 3,
    "glpat-" + ALNUM,
    "sk-" + (ALNUM * 3)[:48],
    "sk-proj-" + ALNUM + "-_" + ALNUM,
    "sk-ant-api03-" + ALNUM * 3,
    "gsk_" + (ALNUM * 3)[:52],
    "hf_" + (ALNUM * 2)[:34],
    "xoxb-" + "123456789012-" + ALNUM,
    "sk_" + "live_" + ALNUM,
    "SG." + (ALNUM * 2)[:22] + "." + (ALNUM * 3)[:43],
    "SK" + HEX[:32],
    HEX[:32] + "-us12",
    "npm_" + (ALNUM * 2)[:36],
    "dapi" + HEX[:32],
    "123456789:AA" + (ALNUM * 2)[:33],
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "dBjftJeZ4CVP-mB92K27uhbU",
    ARMOUR,
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("text", ["{}", "use {}.", "key={}", "'{}',", "x\n{}\ny", "a ({}) b and {}!"])
def test_a_secret_goes_and_what_surrounds_it_stays(secret, text):
    pasted = text.format(secret, secret)
    assert redact(pasted, emails=True, secrets=True) == text.format("[secret]", "[secret]")
    assert redact(pasted, emails=True, secrets=False) == pasted


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("db = postgres://ann:pa55@db.firm.org/x", "db = postgres://[secret]@db.firm.org/x"),
        ('"api_key": "0a1b2c3d4e5f6g7h"', '"api_key": "[secret]"'),
        ("PASSWORD = 'correct-horse-4-battery'", "PASSWORD = '[secret]'"),
        ("client_secret => '0a1b2c3d4e5f6g7h',", "client_secret => '[secret]',"),
        ("a -----BEGIN PRIVATE KEY-----\nMIIE cut off", "a [secret]"),
        ("Write to ann.b+c@mail.firm-x.co.uk, please", "Write to [email], please"),
        ("<ann@firm.org>;bob@firm.org", "<[email]>;[email]"),
        ("联系ann@firm.org。", "联系[email]。"),
        ("mailto:ann@firm.org?subject=x", "mailto:[email]?subject=x"),
    ],
)
def test_passwords_by_their_place_and_addresses(text, want):
    assert redact(text, emails=True, secrets=True) == want


@pytest.mark.parametrize(
    "text",
    [
        'api_key = "YOUR_API_KEY_GOES_HERE"',
        "openai.api_key = os.environ['OPENAI_API_KEY_2']",
        'for key in ["alpha-beta-gamma-1"]: pass',
        "class sk-folding-cube-animation-wrapper-two",
        "https://firm.org:8080/a/b@c",
        "git clone git@github.com:a/b.git",
        "images/logo@2x.png and npm i left-pad@1.3.0",
        "@app.route('/') and C = A @ B.T",
        "user@localhost",
        "sha256:" + HEX,
        "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert redact(text, emails=True, secrets=True) == text


@given(st.text(st.characters(exclude_characters="@", max_codepoint=0x2FF)))
def test_text_without_a_secret_or_address_is_unchanged(text):
    assert redact(text, emails=True, secrets=True) == text


@given(st.lists(st.sampled_from([*SECRETS, "ann@firm.org", "and", "key:", "\n", '"']), max_size=8))
def test_nothing_is_left_to_redact(words):
    once = redact(" ".join(words), emails=True, secrets=True)
    assert redact(once, emails=True, secrets=True) == once
    assert not any(secret in once for secret in [*SECRETS, "ann@firm.org"])
