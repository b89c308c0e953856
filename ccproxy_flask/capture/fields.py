"""Which members of the providers' JSON may be shown: a list of what is allowed. Pure data.

Here stand those that several formats share; each format has its own in ``dialects``. From the
providers' API references (2026-11). Whatever is not named here is hidden with all that
lies below it. Texts that are shown are still searched for keys.
"""

from __future__ import annotations

import re
from itertools import chain

from ..dialects import DIALECTS
from ..dialects.base import names

# What both requests and answers are made of.
_SHAPE = names("""
    content created data delta display_name displayName error errors event events expires_at
    id index items message messages models next_page_token object output outputs part
    request_id response response_id results role source status system system_instruction
    text tool_call_id type updated_at
""")
_REQUEST = names("""
    format inline_data input max_tokens mime_type mimeType mode model models n output_config
    prompt purpose stop stream temperature threshold tool_config top_k top_p
""")
_TOOLS = names("""
    $ref $schema action additionalProperties allOf allowed_tools anyOf args code const
    default description enum examples function function_response functions maximum maxItems
    maxLength minimum minItems minLength name not nullable oneOf output_schema parameters
    parameters_json_schema pattern required schema server_name title tool_choice tools
""")
# What agents' tools are commonly asked.
_TOOL_INPUTS = names("""
    activeForm answer cell_type city command commands edit_mode end_line exit_code
    explanation file_path file_text file_type glob head_limit latitude limit lines location
    longitude new_lines new_start new_str new_string notebook_path num_lines offset
    old_lines old_start old_str old_string output_mode patch path paths plan queries query
    question questions replace_all return_code run_in_background skill start_line stderr
    stdout step subagent_type timeout todos total_lines unit view_range workdir
""")
_ANSWER = names("""
    blocked category details domain metadata_url model_version param rank reason score
    snippet status_code suggestion usage values
""")
SHOWN = frozenset(
    chain(_SHAPE, _REQUEST, _TOOLS, _TOOL_INPUTS, _ANSWER, *(each.shown for each in DIALECTS))
)

# Objects whose members have names of their users' own: the names are shown where they are plain.
OPEN = names("properties $defs definitions patternProperties")

# Texts that are long, and say nothing to a person.
OPAQUE = names("""
    data b64_json signature thoughtSignature thought_signature encrypted_content encrypted_index
    file_data embedding
""")

# Addresses: shown without what may give access.
ADDRESSES = names("url uri fileUri file_uri image_url server_url retrievedUrl file_url")

# JSON inside of a text; in a stream one piece of it.
NESTED = names("arguments partial_json")

# Numbers that measure something are shown under any name like this.
MEASURES = re.compile(
    r"[a-zA-Z_0-9]{0,40}(?:[tT]okens?|[cC]ount|_?[dD]uration|_ms|_cost|_requests|_calls|_time|[iI]ndex"
    r"|_ticks|_offset|_per_second)"
)

# Members that have names of models, tools and reasons: no key may be one.
NAMES = names("""
    model model_version modelVersion name service_tier serviceTier finish_reason finishReason
    stop_reason done_reason tool_name
""")

# Fields of forms (audio, images, files, batches).
FORM_FIELDS = names("""
    model language prompt response_format temperature purpose n size quality style stream include
    include[] timestamp_granularities[] background output_format input_fidelity moderation
""")
