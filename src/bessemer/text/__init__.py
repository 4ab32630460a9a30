"""Text to token ids and back: tokenizers, chat templates, incremental detokenizing.

Nothing here knows of tensors, and nothing is imported here: rooms take the module they need.
"""

__all__ = [
    "answers",
    "bpe",
    "chat_encoding",
    "chat_template",
    "criteria",
    "criterion_checks",
    "detokenizer",
    "formula",
    "grader_modules",
    "grader_objects",
    "graders",
    "infilling",
    "patterns",
    "placeholders",
    "similarity",
    "special_tokens",
    "stop_strings",
    "tokenizer",
    "tool_calls",
    "tool_formats",
    "tool_prompt",
]
