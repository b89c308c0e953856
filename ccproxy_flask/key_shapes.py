"""What API keys look like: one table, by whom they are issued.

Checked in 2026-11 against what the issuers document (their API references, GitHub's list of
supported secret scanning patterns) and the rules of gitleaks 8 and TruffleHog 3. A key of a form
of its own is hidden wherever it stands; one without any (32 hexadecimal digits of Azure, 32 letters
of Mistral) is known only as a credential of its exchange, or where a name should stand.
"""

from __future__ import annotations

import re
from typing import NamedTuple

CHECKED = "2026-11"


class KeyShape(NamedTuple):
    """The keys of one issuer."""

    issuer: str
    prefix: str
    """A regular expression; keys are case-sensitive."""
    body: str
    """A regular expression of all that follows. A shortened or masked key is one, too."""
    example: str
    """Made up, and as long as a real one."""


# No word goes on like this, so that a few characters say enough.
_ANY = r"[A-Za-z0-9_\-*.]{4,}"
# Words and models begin so as well (`pplx-7b-chat`): the rest has to look like a key.
_LONG = r"(?:[A-Za-z0-9*]{20,}|(?=[A-Za-z]{0,19}[0-9*])[A-Za-z0-9*]{8,})[A-Za-z0-9_\-*.]*"
_UPPER = r"[A-Z0-9*]{8,}"

_HEX = "0123456789abcdef"
_MIX = "Zq7xW2kLm9TbN4vRc8YpHs3JdF6gKuA5"  # 32 characters

KEY_SHAPES: tuple[KeyShape, ...] = (
    # Who serves models. `sk-` is many issuers' (Anthropic, OpenAI, OpenRouter, DeepSeek, …).
    KeyShape("Anthropic", r"sk-ant-", _ANY, f"sk-ant-api03-{_MIX}{_MIX}-{_MIX}AA"),
    KeyShape("OpenAI, DeepSeek, Stripe, …", r"[spr]k[-_]", _ANY, f"sk-proj-{_MIX}_{_MIX}"),
    KeyShape("OpenAI sessions", r"sess-", _LONG, f"sess-{_MIX}{_MIX[:8]}"),
    KeyShape("Google", r"AIza", r"[A-Za-z0-9_\-*]{4,}", f"AIzaSy{_MIX}Q"),
    KeyShape("Google, bound to a service", r"AQ\.", _LONG, f"AQ.Ab8RN6{_MIX}"),
    KeyShape("Google OAuth", r"(?:ya29\.|GOCSPX-|1//0)", _ANY, f"ya29.a0{_MIX}{_MIX}"),
    KeyShape("xAI", r"xai-", _LONG, f"xai-{_MIX}{_MIX}{_MIX[:16]}"),
    KeyShape("Groq", r"gsk_", _ANY, f"gsk_{_MIX}{_MIX[:20]}"),
    KeyShape("Perplexity", r"pplx-", _LONG, f"pplx-{_MIX}{_MIX[:16]}"),
    KeyShape("Cerebras", r"csk-", _ANY, f"csk-{_MIX}{_MIX[:16]}"),
    KeyShape(
        "Hugging Face", r"(?:hf|api_org)_", _LONG, "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNmqWeRtYuI"
    ),
    KeyShape("Fireworks", r"fw_", _LONG, f"fw_{_MIX[:24]}"),
    KeyShape("Replicate", r"r8_", _LONG, f"r8_{_MIX}Ab3Cd"),
    KeyShape("NVIDIA", r"nvapi-", _ANY, f"nvapi-{_MIX}{_MIX}"),
    KeyShape("Together", r"tgp_v1_", _ANY, f"tgp_v1_{_MIX}Ab3"),
    KeyShape("Voyage", r"(?:pa|al)-", _LONG, f"pa-{_MIX}Ab3Cd4E"),
    KeyShape("Jina", r"jina_", _LONG, f"jina_{_MIX}{_MIX}"),
    KeyShape("Zhipu, z.ai", r"[0-9a-f]{32}\.", r"[A-Za-z0-9*]{8,}", f"{_HEX}{_HEX}.{_MIX[:16]}"),
    KeyShape("Anyscale", r"esecret_", _ANY, f"esecret_{_MIX[:26]}"),
    KeyShape(
        "LangSmith, Langfuse", r"ls(?:v2_(?:pt|sk)_|__)", _ANY, f"lsv2_pt_{_HEX}{_HEX}_0123456789"
    ),
    KeyShape("Tavily", r"tvly-(?:dev-|prod-)?", _LONG, f"tvly-dev-{_MIX}"),
    KeyShape("Pinecone", r"pcsk_", _ANY, f"pcsk_{_MIX}{_MIX}"),
    KeyShape("Firecrawl", r"fc-", _LONG, f"fc-{_HEX}{_HEX}"),
    KeyShape(
        "Databricks", r"dapi", r"(?=[a-f]{0,31}[0-9])[a-f0-9*]{16,}(?:-\d)?", f"dapi{_HEX}{_HEX}"
    ),
    # Clouds and code.
    KeyShape("AWS", r"A(?:K|S|B)IA", _UPPER, "AKIAQ7ZXW2KLM9TBN4VR"),
    KeyShape("AWS Bedrock", r"(?:ABSK|bedrock-api-key-)", _LONG, f"ABSKQmVkcm9ja0{_MIX}{_MIX}"),
    KeyShape("GitHub", r"gh[oprsu]_", _ANY, f"ghp_{_MIX}Ab3C"),
    KeyShape(
        "GitHub, fine-grained", r"github_pat_", _ANY, f"github_pat_{_MIX[:22]}_{_MIX}{_MIX[:27]}"
    ),
    KeyShape("GitLab", r"gl(?:pat|dt|ptt|rt|soat|cbt)-", _ANY, f"glpat-{_MIX[:20]}"),
    KeyShape("Slack", r"xox[abeoprs]-", _ANY, f"xoxb-123456789012-1234567890123-{_MIX[:24]}"),
    KeyShape("Slack, of an app", r"xapp-", _ANY, f"xapp-1-A0123456789-1234567890123-{_HEX}{_HEX}"),
    KeyShape("npm", r"npm_", _LONG, f"npm_{_MIX}Ab3C"),
    KeyShape("PyPI", r"pypi-", r"AgE[A-Za-z0-9_\-*]{8,}", f"pypi-AgEIcHlwaS5vcmc{_MIX}{_MIX}"),
    KeyShape("DigitalOcean", r"do[opr]_v1_", _ANY, f"dop_v1_{_HEX}{_HEX}{_HEX}{_HEX}"),
    KeyShape("HashiCorp Vault", r"hv[sbr]\.", _LONG, f"hvs.CAESI{_MIX}{_MIX}"),
    KeyShape("Doppler", r"dp\.(?:pt|st|ct|sa|scim|audit)\.", _ANY, f"dp.pt.{_MIX}Ab3Cd4Ef5Gh"),
    KeyShape("Supabase", r"sb(?:p|_secret|_publishable)_", _LONG, f"sbp_{_HEX}{_HEX[:8]}{_HEX}"),
    KeyShape("Grafana", r"gl(?:sa|c)_", _LONG, f"glsa_{_MIX}_0a1b2c3d"),
    KeyShape("PostHog", r"ph[cx]_", _LONG, f"phc_{_MIX}Ab3Cd4Ef5Gh"),
    KeyShape("Sentry", r"sntry[su]_", _LONG, f"sntrys_eyJ{_MIX}{_MIX}"),
    KeyShape(
        "Linear, Notion", r"(?:lin_(?:api|oauth)|ntn|secret)_", _LONG, f"lin_api_{_MIX}Ab3Cd4Ef"
    ),
    KeyShape("Atlassian", r"ATATT3", _ANY, f"ATATT3xFfGF0{_MIX}{_MIX}"),
    KeyShape("SendGrid", r"SG\.", _LONG, f"SG.{_MIX[:22]}.{_MIX}Ab3Cd4Ef5Gh"),
    KeyShape("Stripe webhooks", r"whsec_", _LONG, f"whsec_{_MIX}"),
    KeyShape(
        "Shopify, Square", r"(?:shp(?:at|ca|pa|ss)_|sq0(?:atp|csp)-)", _LONG, f"shpat_{_HEX}{_HEX}"
    ),
    KeyShape("Figma, Fly, Netlify", r"(?:figd|fo1|nfp)_", _LONG, f"figd_{_MIX}Ab3Cd4Ef"),
    KeyShape(
        "age",
        r"AGE-SECRET-KEY-1",
        _UPPER,
        "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2,
    ),
    KeyShape(
        "Mailgun and others", r"key[-_](?=[A-Za-z_\-*.]{0,24}[0-9])", _ANY, f"key-{_HEX}{_HEX}"
    ),
    # Whoever: JSON web tokens (RFC 7519), and other JSON in base64.
    KeyShape(
        "JWT",
        r"eyJ",
        r"[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-.]+)?",
        f"eyJhbGciOiJIUzI1NiJ9.{_MIX}.{_MIX}",
    ),
    KeyShape(
        "PEM",
        r"-----BEGIN[ A-Z]{0,24} PRIVATE KEY-----",
        r"[^-]*",
        f"-----BEGIN PRIVATE KEY-----\n{_MIX}",
    ),
)

ANY_KEY = (
    # In JSON within JSON, and percent-encoded, a letter or digit of the encoding stands before it.
    r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u00[0-9A-Fa-f]{2})|(?<=%[0-9A-Fa-f]{2}))(?:"
    + "|".join(f"{shape.prefix}{shape.body}" for shape in KEY_SHAPES)
    + ")"
)
"""The regular expression (not verbose) of all of them."""

# What identifiers of the providers' APIs begin with; what follows looks like a key, and is none.
IDENTIFIER = re.compile(
    r"(?:asst|batch(?:_req)?|call|cancel|chatcmpl|cmpl|conv|container|cntr|eval|evalrun|file|ft|ftjob"
    r"|ftckpt|item|msg|msgbatch|part|ra|req|resp|rs|run|sess_id|session|skill|step|thread|toolu|upload"
    r"|vs|vsfb|video|wf)[-_][A-Za-z0-9_-]{4,96}"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{1,20}",
)
"""Identifiers, whole: those of the APIs, UUIDs, numbers."""
