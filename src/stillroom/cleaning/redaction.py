r"""What must not be taught or sent on: e-mail addresses, and the secrets that people paste into a chat.

    "Mail ann@firm.org, key AKIAIOSFODNN7EXAMPLE"  ──▶  "Mail [email], key [secret]"

A secret is known by its vendor's form, a private key by its armour, the password in an address and a quoted
value by what stands before it. Placeholders stay: `api_key = "YOUR_KEY"`.
"""

from __future__ import annotations

import re

EMAIL = re.compile(
    r"(?<![\w.+-])(?!git@)[\w.+-]{1,64}@(?!\dx\.)"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b",
    re.ASCII,
)
"""not a remote of git, and not a picture `logo@2x.png`"""
ARMOUR = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END (?P=kind)-----|\Z)", re.DOTALL
)
ASSIGNED = re.compile(r"((?::|=>?)\s{0,3}[\"'])(?=[^\"'\s]*\d)[^\"'\s]{12,}(?=[\"'])")
"""a quoted value with a digit"""
SECRETS_NAME = re.compile(r"(?:key|token|secret|password|passwd|pwd)[\"']?\s{0,3}\Z", re.IGNORECASE)
IN_ADDRESS = r"(?<=://)[^\s:/@\"']+:[^\s/@\"']+(?=@)"
FORMS = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # AWS
    r"AIza[\w-]{35}",  # Google
    r"GOCSPX-[\w-]{28}",
    r"ya29\.[\w-]{20,}",
    r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub, GitLab
    r"github_pat_\w{22,255}",
    r"glpat-[\w-]{20,}",
    r"sk-(?=\w*\d)[A-Za-z0-9]{32,}",  # OpenAI, Anthropic, OpenRouter
    r"sk-(?:proj|svcacct|admin|ant|or)-[\w-]{20,}",
    r"gsk_[A-Za-z0-9]{40,}",  # Groq, Hugging Face, Replicate, xAI, Perplexity
    r"hf_[A-Za-z0-9]{30,}",
    r"r8_[A-Za-z0-9]{37}",
    r"xai-[A-Za-z0-9]{70,}",
    r"pplx-[A-Za-z0-9]{40,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"xapp-\d-[A-Za-z0-9-]{20,}",
    r"hooks\.slack\.com/services/T\w+/B\w+/\w{20,}",
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
    r"whsec_[A-Za-z0-9+/=]{24,}",
    r"SG\.[\w-]{22}\.[\w-]{43}",  # SendGrid, Twilio, Mailgun, Mailchimp
    r"SK[0-9a-f]{32}",
    r"key-[0-9a-f]{32}",
    r"[0-9a-f]{32}-us\d{1,2}",
    r"npm_[A-Za-z0-9]{36}",  # npm, PyPI
    r"pypi-AgE[\w-]{50,}",
    r"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean, Databricks, Shopify
    r"dapi[0-9a-f]{32}",
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    r"\d{8,10}:AA[\w-]{33}",  # Telegram, Discord
    r"[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,38}",
    r"AccountKey=[A-Za-z0-9+/=]{80,}",  # Azure
    r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",  # JSON Web Token
)
SECRET = re.compile(rf"{IN_ADDRESS}|(?<![A-Za-z0-9])(?:{'|'.join(FORMS)})(?![A-Za-z0-9])", re.ASCII)
LONG = re.compile(r"(?<!\S)\S{10,}+")
"""a word that has room for a secret; nothing else is compared with the forms"""


def redact(text: str, *, emails: bool, secrets: bool) -> str:
    """The text with `[secret]` for secrets and `[email]` for addresses."""
    if secrets:
        text = _without_secrets(text)
    return EMAIL.sub("[email]", text) if emails and "@" in text else text


def _without_secrets(text: str) -> str:
    if "-----BEGIN " in text:
        text = ARMOUR.sub("[secret]", text)
    text = LONG.sub(lambda word: SECRET.sub("[secret]", word[0]), text)
    return ASSIGNED.sub(_assigned, text)


def _assigned(match: re.Match[str]) -> str:
    """`[secret]` for the value where the name before it is one of a secret."""
    before = match.string[max(0, match.start() - 20) : match.start()]
    return f"{match[1]}[secret]" if SECRETS_NAME.search(before) else match[0]
