"""Requests of real clients: a small one for each interface, and what clients add to it, with what is to come of that.

Whole first requests of two coding agents, with their texts replaced, are in the folder field.
"""

from dataclasses import dataclass
from typing import Any

LEAVE_OUT = object()
"""In place of a value: the field is not sent."""


@dataclass(frozen=True)
class Answered:
    """hints: named in the response's header, with those of the body they were added to; left_out: a tool, too."""

    hints: tuple[str, ...] = ()
    left_out: str | None = None


@dataclass(frozen=True)
class Refused:
    """param: the field at fault, as the error has it; sentence: a part of it."""

    param: str | None
    sentence: str
    status: int = 400


def answered(*hints: str, left_out: str | None = None) -> Answered:
    return Answered(hints, left_out)


def refused(param: str | None, sentence: str, status: int = 400) -> Refused:
    return Refused(param, sentence, status)


BASH: dict[str, Any] = {
    "name": "Bash",
    "description": "Run a command",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}},
        "required": ["command"],
        "additionalProperties": False,
    },
}
TIME: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Current time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
}
SHELL: dict[str, Any] = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "array", "items": {"type": "string"}}},
        "required": ["command"],
        "additionalProperties": False,
    },
}

MESSAGES: dict[str, Any] = {
    "model": "small",
    "max_tokens": 24,
    "stream": False,
    "system": [
        {"type": "text", "text": "You are a coding agent.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Work in /srv/app."},
    ],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "List the files."}]}],
    "tools": [BASH],
    "metadata": {"user_id": "u_1"},
}
CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 12}
RESPONSES: dict[str, Any] = {
    "model": "small",
    "instructions": "You are a coding agent.",
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List files."}]}],
    "tools": [SHELL],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "store": False,
    "stream": False,
    "max_output_tokens": 12,
}

CHATS, MESSAGE, RESPONSE, COMPLETIONS = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"
SMALL: dict[str, dict[str, Any]] = {
    CHATS: CHAT,
    MESSAGE: MESSAGES,
    RESPONSE: RESPONSES,
    COMPLETIONS: {"model": "small", "prompt": "Hello", "max_tokens": 2},
}

BODIES: dict[str, tuple[dict[str, Any], dict[str, Any], Answered | Refused]] = {
    "a_01_context_management": (
        MESSAGES,
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        answered("context_management"),
    ),
    "a_02_output_config": (MESSAGES, {"output_config": {"effort": "medium"}}, answered("output_config.effort")),
    "a_03_thinking_adaptive": (MESSAGES, {"thinking": {"type": "adaptive"}}, answered()),
    "a_04_thinking_adaptive_display": (
        MESSAGES,
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        answered("thinking.display"),
    ),
    "a_05_mid_system": (
        MESSAGES,
        {
            "messages": [
                {"role": "user", "content": "List the files."},
                {"role": "system", "content": [{"type": "text", "text": "# Environment\ncwd: /srv/app"}]},
            ]
        },
        answered(),
    ),
    "a_06_eager_input": (
        MESSAGES,
        {"tools": [{**BASH, "eager_input_streaming": True}]},
        answered("tools[].eager_input_streaming"),
    ),
    "a_07_cache_scope": (
        MESSAGES,
        {
            "system": [
                {
                    "type": "text",
                    "text": "You are a coding agent.",
                    "cache_control": {"type": "ephemeral", "scope": "global"},
                },
                {"type": "text", "text": "Work in /srv/app."},
            ]
        },
        answered(),
    ),
    "a_08_max_tokens_32000": (MESSAGES, {"max_tokens": 32000}, answered()),
    "a_09_max_tokens_64000": (MESSAGES, {"max_tokens": 64000}, answered()),
    "a_10_top_cache_control": (MESSAGES, {"cache_control": {"type": "ephemeral"}}, answered("cache_control")),
    "a_12_redacted_thinking": (
        MESSAGES,
        {
            "messages": [
                {"role": "user", "content": "List the files."},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "redacted_thinking", "data": "abcd"},
                        {"type": "text", "text": "There are two."},
                    ],
                },
                {"role": "user", "content": "Which?"},
            ]
        },
        answered("messages[].content[].data"),
    ),
    "a_13_image_in_tool_result": (
        MESSAGES,
        {
            "messages": [
                {"role": "user", "content": "Look."},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "shot"}}],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_1",
                            "content": [
                                {"type": "text", "text": "done"},
                                {
                                    "type": "image",
                                    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                                },
                            ],
                        }
                    ],
                },
            ]
        },
        refused("messages[2].content[0].content[1]", "reads text only"),
    ),
    "a_15_web_search_tool": (
        MESSAGES,
        {"tools": [BASH, {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
        answered(left_out="web_search_20250305"),
    ),
    "a_16_no_max_tokens": (MESSAGES, {"max_tokens": LEAVE_OUT}, answered()),
    "a_18_temperature_top_p": (MESSAGES, {"temperature": 1, "top_p": 0.9, "top_k": 40}, answered()),
    "a_19_tool_choice_auto_disable": (
        MESSAGES,
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        answered(),
    ),
    "a_21_defer_loading": (MESSAGES, {"tools": [{**BASH, "defer_loading": True}]}, answered("tools[].defer_loading")),
    "a_24_output_format_json": (
        MESSAGES,
        {
            "output_config": {
                "format": {
                    "type": "json_schema",
                    "schema": {
                        "type": "object",
                        "properties": {"title": {"type": "string"}},
                        "required": ["title"],
                        "additionalProperties": False,
                    },
                }
            }
        },
        answered(),
    ),
    "a_25_tools_empty": (MESSAGES, {"tools": []}, answered()),
    "a_26_thinking_disabled": (MESSAGES, {"thinking": {"type": "disabled"}}, answered()),
    "a_27_speed": (MESSAGES, {"speed": "standard"}, answered("speed")),
    "a_28_input_examples": (MESSAGES, {"tools": [{**BASH, "input_examples": [{"command": "ls"}]}]}, answered()),
    "b_01_reasoning_effort_none": (CHAT, {"reasoning_effort": "none"}, answered()),
    "b_02_reasoning_effort_low": (CHAT, {"reasoning_effort": "low"}, answered()),
    "b_03_verbosity": (CHAT, {"verbosity": "low"}, answered("verbosity")),
    "b_04_store_true": (CHAT, {"store": True}, answered("store")),
    "b_05_developer_first": (
        CHAT,
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        answered(),
    ),
    "b_06_two_systems": (
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "system", "content": "Date: today"},
                {"role": "user", "content": "Hi"},
            ]
        },
        answered(),
    ),
    "b_07_system_last": (
        CHAT,
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Answer in German."}]},
        answered(),
    ),
    "b_08_tools_empty": (CHAT, {"tools": [], "tool_choice": "auto"}, answered()),
    "b_10_user_name": (
        CHAT,
        {"messages": [{"role": "user", "name": "mara", "content": "Hi"}]},
        answered("messages[].name"),
    ),
    "b_13_reasoning_field": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": "Time?"},
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning": "need tool",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "get_time", "arguments": '{"zone": "UTC"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
            ],
            "tools": [TIME],
        },
        answered(),
    ),
    "b_14_reasoning_content": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": "Time?"},
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": "need tool",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "get_time", "arguments": '{"zone": "UTC"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
            ],
            "tools": [TIME],
        },
        answered(),
    ),
    "b_15_reasoning_details": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello", "reasoning_details": []},
                {"role": "user", "content": "More"},
            ]
        },
        answered(),
    ),
    "b_16_image_url": (
        CHAT,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                    ],
                }
            ]
        },
        refused("messages[0].content[1]", "reads text only"),
    ),
    "b_17_max_tokens_minus1": (CHAT, {"max_tokens": -1}, answered()),
    "b_18_max_tokens_null": (CHAT, {"max_tokens": None, "max_completion_tokens": 8}, answered()),
    "b_19_temperature_2": (CHAT, {"temperature": 2}, answered()),
    "b_20_n_2": (CHAT, {"n": 2, "temperature": 1, "seed": 3}, answered()),
    "b_21_ignore_eos": (CHAT, {"ignore_eos": True}, answered()),
    "b_22_cache_prompt": (CHAT, {"cache_prompt": True, "n_predict": 12}, answered("cache_prompt")),
    "b_23_enable_thinking_top": (CHAT, {"enable_thinking": False}, answered()),
    "b_24_chat_template_kwargs": (CHAT, {"chat_template_kwargs": {"enable_thinking": False}}, answered()),
    "b_25_top_k_minus1": (CHAT, {"top_k": -1}, answered()),
    "b_26_repeat_penalty": (CHAT, {"repeat_penalty": 1.1}, answered()),
    "b_27_strict_tool": (
        CHAT,
        {"tools": [{"type": "function", "function": {**TIME["function"], "strict": True}}]},
        answered(),
    ),
    "b_28_tool_no_parameters": (CHAT, {"tools": [{"type": "function", "function": {"name": "ping"}}]}, answered()),
    "b_29_tool_empty_parameters": (
        CHAT,
        {"tools": [{"type": "function", "function": {"name": "ping", "description": "Ping", "parameters": {}}}]},
        answered(),
    ),
    "b_30_parallel_false": (CHAT, {"tools": [TIME], "parallel_tool_calls": False}, answered()),
    "b_31_allowed_tools": (
        CHAT,
        {
            "tools": [TIME],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_time"}}]},
            },
        },
        answered(),
    ),
    "b_32_custom_tool": (
        CHAT,
        {"tools": [{"type": "custom", "custom": {"name": "patch", "description": "Patch"}}]},
        answered(),
    ),
    "b_33_functions_legacy": (CHAT, {"functions": [TIME["function"]], "function_call": "auto"}, answered()),
    "b_34_prediction": (CHAT, {"prediction": {"type": "content", "content": "Hi"}}, answered("prediction")),
    "b_35_modalities": (CHAT, {"modalities": ["text"]}, answered()),
    "b_36_tool_name_space": (
        CHAT,
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "my tool", "parameters": {"type": "object", "properties": {}}},
                }
            ]
        },
        refused("tools[0].function.name", "matching regex"),
    ),
    "b_39_tool_call_args_empty": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": "Time?"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "get_time", "arguments": ""}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": "ok"},
            ],
            "tools": [TIME],
        },
        answered(),
    ),
    "b_40_service_tier_flex": (CHAT, {"service_tier": "flex"}, answered("service_tier")),
    "b_41_stream_options_no_stream": (CHAT, {"stream_options": {"include_usage": True}}, answered("stream_options")),
    "b_43_content_null_user": (CHAT, {"messages": [{"role": "user", "content": None}]}, answered()),
    "b_44_only_system": (CHAT, {"messages": [{"role": "system", "content": "Be brief."}]}, answered()),
    "b_46_tool_first": (
        CHAT,
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": "orphan"}, {"role": "user", "content": "Hi"}]},
        refused(None, "which the turn before does not make"),
    ),
    "b_47_max_tokens_over": (CHAT, {"max_tokens": 100000}, answered()),
    "b_48_logit_bias": (CHAT, {"logit_bias": {"9707": -100}}, refused(None, "logit_bias names token 9707")),
    "b_49_frequency_999": (CHAT, {"frequency_penalty": 3}, refused("frequency_penalty", "<= 2")),
    "b_50_cache_control_part": (
        CHAT,
        {
            "messages": [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
                },
                {"role": "user", "content": "Hi"},
            ]
        },
        answered("messages[].content[].cache_control"),
    ),
    "b_51_thinking_obj": (CHAT, {"thinking": {"type": "disabled"}}, answered()),
    "b_52_reasoning_obj": (CHAT, {"reasoning": {"effort": "low"}}, answered()),
    "b_53_tool_choice_none": (CHAT, {"tools": [TIME], "tool_choice": "none"}, answered()),
    "b_54_stop_5": (CHAT, {"stop": ["a", "b", "c", "d", "e"]}, answered()),
    "b_55_model_slash": (CHAT, {"model": "Qwen/Qwen3.5-35B-A3B"}, refused("model", "only small", status=404)),
    "b_56_min_tokens": (CHAT, {"min_tokens": 4}, answered()),
    "b_57_safety_meta": (
        CHAT,
        {"metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "k", "user": "u"},
        answered("user", "safety_identifier", "metadata", "prompt_cache_key"),
    ),
    "b_58_prompt_cache_retention": (CHAT, {"prompt_cache_retention": "24h"}, answered("prompt_cache_retention")),
    "b_59_web_search_options": (CHAT, {"web_search_options": {}}, refused("tools", "web_search_options")),
    "b_60_input_audio": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}
            ]
        },
        refused("messages[0].content[0]", "reads text only"),
    ),
    "b_62_temperature_string": (CHAT, {"temperature": "0.7"}, refused("temperature", "got `str`")),
    "b_63_seed_negative": (CHAT, {"seed": -1}, answered()),
    "b_64_top_p_0": (CHAT, {"top_p": 0}, answered()),
    "c_01_instructions_and_developer": (
        RESPONSES,
        {
            "input": [
                {
                    "type": "message",
                    "role": "developer",
                    "content": [{"type": "input_text", "text": "<permissions>read-only</permissions>"}],
                },
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List files."}]},
            ]
        },
        answered(),
    ),
    "c_02_include_encrypted": (RESPONSES, {"include": ["reasoning.encrypted_content"]}, answered("include")),
    "c_03_reasoning_effort": (
        RESPONSES,
        {"reasoning": {"effort": "medium", "summary": "auto"}},
        answered("reasoning.summary"),
    ),
    "c_04_reasoning_null": (RESPONSES, {"reasoning": None}, answered()),
    "c_05_web_search": (RESPONSES, {"tools": [SHELL, {"type": "web_search"}]}, answered(left_out="web_search")),
    "c_06_custom_tool": (
        RESPONSES,
        {
            "tools": [
                SHELL,
                {
                    "type": "custom",
                    "name": "apply_patch",
                    "description": "Edits files",
                    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
                },
            ]
        },
        answered(),
    ),
    "c_07_namespace": (
        RESPONSES,
        {"tools": [SHELL, {"type": "namespace", "name": "mcp__files", "description": "Files", "tools": [SHELL]}]},
        answered("tools[].description"),
    ),
    "c_08_verbosity": (RESPONSES, {"text": {"verbosity": "low"}}, answered("text.verbosity")),
    "c_09_client_metadata": (RESPONSES, {"client_metadata": {"x": "y"}}, answered("client_metadata")),
    "c_11_encrypted_content": (
        RESPONSES,
        {
            "input": [
                {"type": "message", "role": "user", "content": "Hi"},
                {"type": "reasoning", "summary": [], "encrypted_content": "zzzz"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
                {"type": "message", "role": "user", "content": "More"},
            ]
        },
        answered("input[].encrypted_content"),
    ),
    "c_12_parallel_calls": (
        RESPONSES,
        {
            "input": [
                {"role": "user", "content": "Two"},
                {"type": "function_call", "name": "shell", "arguments": '{"command":["a"]}', "call_id": "c1"},
                {"type": "function_call", "name": "shell", "arguments": '{"command":["b"]}', "call_id": "c2"},
                {"type": "function_call_output", "call_id": "c1", "output": "1"},
                {"type": "function_call_output", "call_id": "c2", "output": "2"},
            ],
            "parallel_tool_calls": True,
        },
        answered(),
    ),
    "c_13_store_missing": (RESPONSES, {"store": LEAVE_OUT}, answered()),
    "c_14_store_true": (RESPONSES, {"store": True}, answered("store")),
    "c_15_previous_response": (
        RESPONSES,
        {"previous_response_id": "resp_1"},
        refused("previous_response_id", "nothing is kept"),
    ),
    "c_16_input_image": (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]},
        refused("input[0].content[0]", "reads text only"),
    ),
    "c_17_top_logprobs": (RESPONSES, {"top_logprobs": 2}, answered("top_logprobs")),
    "c_18_local_shell": (RESPONSES, {"tools": [SHELL, {"type": "local_shell"}]}, answered(left_out="local_shell")),
    "c_19_max_output_over": (RESPONSES, {"max_output_tokens": 200000}, answered()),
    "c_21_text_format": (
        RESPONSES,
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
        answered("text.verbosity"),
    ),
    "c_23_truncation_auto": (RESPONSES, {"truncation": "auto"}, answered("truncation")),
}
