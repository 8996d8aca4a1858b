"""What the fixtures hold of the CLI: made by `python -m tests.generate_known_lines`."""

from typing import Final

# The oldest and the newest version with recordings; the newest that was judged and is not broken.
OLDEST: Final = (2, 1, 292)
NEWEST: Final = (2, 1, 330)
NEWEST_JUDGED: Final = (2, 1, 332)
# By type of line: the names of its fields.
FIELDS: Final = {
    "assistant": frozenset((
        "api_error", "api_error_params", "api_error_status", "api_error_type", "error", "is_api_error_message",
        "message", "message.container", "message.content", "message.content[].citations", "message.content[].data",
        "message.content[].id", "message.content[].input", "message.content[].name", "message.content[].signature",
        "message.content[].text", "message.content[].thinking", "message.content[].type",
        "message.context_management", "message.diagnostics", "message.id", "message.model", "message.role",
        "message.stop_details", "message.stop_reason", "message.stop_sequence", "message.type", "message.usage",
        "message.usage.cache_creation", "message.usage.cache_creation_input_tokens",
        "message.usage.cache_read_input_tokens", "message.usage.fallback_credit", "message.usage.inference_geo",
        "message.usage.input_tokens", "message.usage.iterations", "message.usage.output_tokens",
        "message.usage.output_tokens_details", "message.usage.server_tool_use", "message.usage.service_tier",
        "message.usage.speed", "parent_tool_use_id", "request_id", "session_id", "thinking_display",
        "thinking_duration_ms", "timestamp", "tool_use_meta", "type", "uuid",
    )),
    "control_request/hook_callback": frozenset((
        "request", "request.callback_id", "request.input", "request.subtype", "request.tool_use_id", "request_id",
        "type",
    )),
    "control_request/mcp_message": frozenset((
        "request", "request.message", "request.server_name", "request.subtype", "request_id", "type",
    )),
    "control_response": frozenset((
        "response", "response.pending_permission_requests", "response.pending_user_dialog_requests",
        "response.request_id", "response.response", "response.subtype", "type",
    )),
    "rate_limit_event": frozenset((
        "rate_limit_info", "rate_limit_info.isUsingOverage", "rate_limit_info.rateLimitType",
        "rate_limit_info.resetsAt", "rate_limit_info.status", "rate_limit_info.unifiedWindows",
        "rate_limit_info.utilization", "session_id", "type", "uuid",
    )),
    "result/error_during_execution": frozenset((
        "begun_message_ids", "duration_api_ms", "duration_ms", "errors", "fast_mode_disabled_reason",
        "fast_mode_state", "is_error", "modelUsage", "model_usage_since_last_result", "num_turns",
        "permission_denials", "queued_turn_count", "result_index", "safety_stops", "session_id", "stop_reason",
        "subagent_stats", "subtype", "terminal_reason", "total_cost_usd", "type", "usage", "usage.cache_creation",
        "usage.cache_creation_input_tokens", "usage.cache_read_input_tokens", "usage.fallback_credit",
        "usage.inference_geo", "usage.input_tokens", "usage.iterations", "usage.output_tokens",
        "usage.output_tokens_details", "usage.server_tool_use", "usage.service_tier", "usage.speed", "uuid",
    )),
    "result/error_max_structured_output_retries": frozenset((
        "begun_message_ids", "duration_api_ms", "duration_ms", "errors", "fast_mode_disabled_reason",
        "fast_mode_state", "is_error", "modelUsage", "model_usage_since_last_result", "num_turns",
        "permission_denials", "queued_turn_count", "result_index", "safety_stops", "session_id", "stop_reason",
        "subagent_stats", "subtype", "terminal_reason", "total_cost_usd", "type", "usage", "usage.cache_creation",
        "usage.cache_creation_input_tokens", "usage.cache_read_input_tokens", "usage.fallback_credit",
        "usage.inference_geo", "usage.input_tokens", "usage.iterations", "usage.output_tokens",
        "usage.output_tokens_details", "usage.server_tool_use", "usage.service_tier", "usage.speed", "uuid",
    )),
    "result/success": frozenset((
        "api_error", "api_error_status", "api_error_type", "begun_message_ids", "duration_api_ms", "duration_ms",
        "fast_mode_disabled_reason", "fast_mode_state", "first_content_frame_ms", "is_error", "modelUsage",
        "model_usage_since_last_result", "num_turns", "permission_denials", "queued_turn_count", "result",
        "result_index", "safety_stops", "session_id", "stop_reason", "structured_output", "subagent_stats",
        "subtype", "terminal_reason", "time_to_request_ms", "total_cost_usd", "ttft_ms", "ttft_stream_ms", "type",
        "usage", "usage.cache_creation", "usage.cache_creation_input_tokens", "usage.cache_read_input_tokens",
        "usage.fallback_credit", "usage.inference_geo", "usage.input_tokens", "usage.iterations",
        "usage.output_tokens", "usage.output_tokens_details", "usage.server_tool_use", "usage.service_tier",
        "usage.speed", "uuid",
    )),
    "stream_event/content_block_delta": frozenset((
        "api_message_id", "event", "event.delta", "event.delta.citation", "event.delta.partial_json",
        "event.delta.signature", "event.delta.text", "event.delta.thinking", "event.delta.type",
        "event.delta.value", "event.index", "event.type", "parent_tool_use_id", "session_id", "thinking_display",
        "type", "uuid",
    )),
    "stream_event/content_block_start": frozenset((
        "api_message_id", "event", "event.content_block", "event.content_block.citations",
        "event.content_block.data", "event.content_block.id", "event.content_block.input",
        "event.content_block.name", "event.content_block.signature", "event.content_block.text",
        "event.content_block.thinking", "event.content_block.type", "event.index", "event.type",
        "parent_tool_use_id", "session_id", "thinking_display", "type", "uuid",
    )),
    "stream_event/content_block_stop": frozenset((
        "api_message_id", "event", "event.index", "event.type", "parent_tool_use_id", "session_id", "type", "uuid",
    )),
    "stream_event/message_delta": frozenset((
        "api_message_id", "event", "event.context_management", "event.delta", "event.delta.container",
        "event.delta.stop_details", "event.delta.stop_reason", "event.delta.stop_sequence", "event.type",
        "event.usage", "event.usage.cache_creation_input_tokens", "event.usage.cache_read_input_tokens",
        "event.usage.fallback_credit", "event.usage.input_tokens", "event.usage.iterations",
        "event.usage.output_tokens", "event.usage.output_tokens_details", "event.usage.server_tool_use",
        "parent_tool_use_id", "session_id", "type", "uuid",
    )),
    "stream_event/message_start": frozenset((
        "api_message_id", "event", "event.message", "event.message.container", "event.message.content",
        "event.message.diagnostics", "event.message.id", "event.message.model", "event.message.role",
        "event.message.stop_reason", "event.message.stop_sequence", "event.message.type", "event.message.usage",
        "event.message.usage.cache_creation", "event.message.usage.cache_creation_input_tokens",
        "event.message.usage.cache_read_input_tokens", "event.message.usage.inference_geo",
        "event.message.usage.input_tokens", "event.message.usage.output_tokens", "event.message.usage.service_tier",
        "event.message.usage.speed", "event.type", "parent_tool_use_id", "session_id", "thinking_display",
        "ttft_ms", "type", "uuid",
    )),
    "stream_event/message_stop": frozenset((
        "abandoned_blocks", "api_message_id", "event", "event.type", "parent_tool_use_id", "session_id", "type",
        "uuid",
    )),
    "system/api_retry": frozenset((
        "attempt", "error", "error_status", "max_retries", "retry_delay_ms", "session_id", "subtype", "type",
        "uuid",
    )),
    "system/init": frozenset((
        "additional_directories", "agents", "analytics_disabled", "apiKeySource", "capabilities",
        "claude_code_version", "cwd", "fast_mode_disabled_reason", "fast_mode_state", "mcp_servers", "memory_paths",
        "messaging_socket_path", "model", "original_cwd", "output_style", "per_turn_effort_active",
        "permissionMode", "plugins", "product_feedback_disabled", "served_by_anthropic", "session_id", "skills",
        "slash_commands", "subtype", "tools", "type", "ultrathink_available", "ultrathink_typed_raises", "uuid",
        "view_mode",
    )),
    "system/status": frozenset((
        "session_id", "status", "subtype", "type", "uuid",
    )),
    "system/thinking_tokens": frozenset((
        "estimated_tokens", "estimated_tokens_delta", "session_id", "subtype", "type", "uuid",
    )),
    "tool_progress": frozenset((
        "elapsed_time_seconds", "heartbeat", "parent_tool_use_id", "session_id", "tool_name", "tool_use_id", "type",
        "uuid",
    )),
    "user": frozenset((
        "isSynthetic", "message", "message.content", "message.content[].content", "message.content[].is_error",
        "message.content[].text", "message.content[].tool_use_id", "message.content[].type", "message.role",
        "parent_tool_use_id", "session_id", "timestamp", "tool_result_meta", "tool_use_result", "type", "uuid",
    )),
}  # fmt: skip
# Words of lists that may grow.
WORDS: Final = {
    "block type": frozenset((
        "future_block", "text", "thinking", "tool_use",
    )),
    "delta type": frozenset((
        "citations_delta", "future_delta", "input_json_delta", "signature_delta", "text_delta", "thinking_delta",
    )),
    "limit status": frozenset((
        "allowed", "allowed_warning", "rejected",
    )),
    "stop reason": frozenset((
        "end_turn", "max_tokens", "refusal", "stop_sequence", "tool_use",
    )),
}  # fmt: skip
