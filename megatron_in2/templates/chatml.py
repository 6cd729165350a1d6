"""ChatML, written as text: its marks are ordinary text, not control tokens."""

from megatron_in2.templates.text import InstructionTemplate

CHATML = InstructionTemplate(
    name="chatml",
    with_context=(
        "<|im_start|>user\n### Context:\n{context}\n\n### Instruction:\n{instruction}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    without_context="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
    chat="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
    chat_with_system=(
        "<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
    ),
    answer_end="<|im_end|>",
    markers=("<|im_start|>", "<|im_end|>"),
)
