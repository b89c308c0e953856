"""Which members of the providers' JSON may be shown: a list of what is allowed. Pure data.

From the providers' API references (2026-11). Whatever is not named here is hidden with all that
lies below it. Texts that are shown are still searched for keys.
"""

from __future__ import annotations

import re


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What both requests and answers are made of.
_SHAPE = _names("""
    choices candidates citation citations completion content content_block content_index contents
    data delta error errors event events index item item_id items message messages object op output
    output_index output_text outputs part parts phase results role sequence_number source status
    system systemInstruction system_instruction text thinking thought type
    id request_id response response_id responseId call_id tool_call_id tool_use_id
    created created_at createTime completed_at expires_at createdAt updated_at
    has_more first_id last_id models nextPageToken next_page_token display_name displayName
""")
_REQUEST = _names("""
    model models input prompt suffix instructions max_tokens max_completion_tokens
    max_output_tokens maxOutputTokens max_tool_calls temperature top_p top_k topP topK top_logprobs
    logprobs seed n stop stop_sequences stopSequences presence_penalty frequency_penalty
    repetition_penalty logit_bias stream stream_options include_usage include_obfuscation
    service_tier speed store background include truncation previous_response_id
    reasoning reasoning_effort effort budget_tokens thinking_budget thinkingBudget thinkingConfig
    includeThoughts thinkingLevel enable_thinking verbosity summary format output_config
    response_format responseMimeType responseModalities responseSchema responseJsonSchema
    generationConfig safetySettings threshold toolConfig tool_config functionCallingConfig mode
    allowedFunctionNames dimensions encoding_format voice response_modalities modalities language
    prompt_cache_retention cache_control ttl context_management edits trigger keep applied_edits
    options keep_alive raw template think betas inference_geo anthropic_version candidateCount
    mirostat num_ctx num_predict num_keep repeat_penalty min_p purpose size quality style
    response_mime_type timestamp_granularities user_location country timezone
    media_type mimeType mime_type inlineData inline_data fileData input_audio image_url
    prompt_cache_options allow_fallbacks only order
""")
_TOOLS = _names("""
    tools tool_choice tool_calls function functions function_call functionCall functionResponse
    functionDeclarations function_response name description parameters input_schema output_schema
    parametersJsonSchema parameters_json_schema schema json_schema strict required enum const anyOf
    oneOf allOf not additionalProperties minimum maximum minItems maxItems minLength maxLength
    default pattern title nullable $ref $schema parallel_tool_calls disable_parallel_tool_use
    defer_loading max_uses allowed_domains blocked_domains allowed_tools search_context_size
    googleSearch google_search codeExecution code_execution urlContext executableCode code
    codeExecutionResult outcome is_error caller tool_name tool_references toolCall toolResponse
    arguments args partial_json action server_label server_description server_name
    require_approval allowed_callers eager_input_streaming examples
""")
# What agents' tools are commonly asked.
_TOOL_INPUTS = _names("""
    command commands path paths file_path file_text query queries question questions answer
    limit offset old_string new_string old_str new_str replace_all todos activeForm
    subagent_type glob output_mode head_limit timeout run_in_background location city unit location
    notebook_path cell_type edit_mode skill explanation plan step patch workdir view_range lines
    new_lines old_lines start_line end_line num_lines total_lines stdout stderr return_code
    old_start new_start exit_code latitude longitude file_type
""")
_ANSWER = _names("""
    finish_reason finishReason finishMessage native_finish_reason stop_reason stop_sequence
    stop_details done done_reason usage usageMetadata modelVersion model_version modality
    system_fingerprint refusal reasoning_content reasoning_details annotations safetyRatings
    category probability severity filtered detected blocked blockReason promptFeedback
    content_filter_results content_filters prompt_filter_results hate self_harm sexual violence
    jailbreak incomplete_details reason param suggestion details metadata_url flagged categories
    category_scores server_tool_use cache_creation iterations context_details cost_details
    prompt_tokens_details completion_tokens_details input_tokens_details output_tokens_details
    promptTokensDetails cacheTokensDetails candidatesTokensDetails toolUsePromptTokensDetails
    serviceTier trafficType is_byok groundingMetadata groundingChunks groundingSupports segment
    web webSearchQueries search_results snippet page_age cited_text domain avgLogprobs
    owned_by root context_length architecture input_modalities output_modalities quota
    embedding embeddings values score rank relevance_score x_groq time_info container_type
    upstream_inference_cost provider provider_name cost channel tool_usage logs sources
    protected_material_code protected_material_text groundingChunkIndices num_sources_used
    urlContextMetadata urlMetadata urlRetrievalStatus server_tool_use_details
    server_side_tool_usage_details status_code
""")
SHOWN = _SHAPE | _REQUEST | _TOOLS | _TOOL_INPUTS | _ANSWER

# Objects whose members have names of their users' own: the names are shown where they are plain.
OPEN = _names("properties $defs definitions patternProperties")

# Texts that are long, and say nothing to a person.
OPAQUE = _names("""
    data b64_json signature thoughtSignature thought_signature encrypted_content encrypted_index
    file_data embedding
""")

# Addresses: shown without what may give access.
ADDRESSES = _names("url uri fileUri file_uri image_url server_url retrievedUrl file_url")

# JSON inside of a text; in a stream one piece of it.
NESTED = _names("arguments partial_json")

# Numbers that measure something are shown under any name like this.
MEASURES = re.compile(
    r"[a-zA-Z_0-9]{0,40}(?:[tT]okens?|[cC]ount|_?[dD]uration|_ms|_cost|_requests|_calls|_time|[iI]ndex"
    r"|_ticks|_offset|_per_second)"
)

# Members that have names of models, tools and reasons: no key may be one.
NAMES = _names("""
    model model_version modelVersion name service_tier serviceTier finish_reason finishReason
    stop_reason done_reason tool_name
""")

# Fields of forms (audio, images, files, batches).
FORM_FIELDS = _names("""
    model language prompt response_format temperature purpose n size quality style stream include
    include[] timestamp_granularities[] background output_format input_fidelity moderation
""")
