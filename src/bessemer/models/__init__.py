"""The network and its weights on disk: a native decoder, Hugging Face folders, GGUF.

Nothing here knows about training or serving. Taking a name through this door imports torch;
opening the door does not.
"""

__all__ = [
    "adapter",
    "attention",
    "chains",
    "codes",
    "config",
    "decoder",
    "encoder",
    "encoder_config",
    "experts",
    "flops",
    "folder",
    "foreign",
    "functions",
    "gguf_export",
    "gguf_file",
    "gguf_folder",
    "gguf_import",
    "gguf_layout",
    "gpt2",
    "lora",
    "quantized",
    "quantizing",
    "reward_model",
    "rotary",
    "scheme",
]
