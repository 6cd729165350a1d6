"""FILM's template, the default.

The wording is a format: FILM checkpoints and the published probes depend on every byte of it
(arXiv 2404.16811, github.com/microsoft/FILM).
"""

from megatron_in2.templates.text import InstructionTemplate

FILM = InstructionTemplate(
    name="film",
    with_context=(
        "[INST] Below is a context and an instruction. Based on the information provided in the "
        "context, write a response for the instruction.\n\n### Context:\n{context}\n\n"
        "### Instruction:\n{instruction} [/INST]"
    ),
    without_context=(
        "[INST] Below is a user instruction. Write a response for the instruction.\n\n"
        "### Instruction:\n{instruction} [/INST]"
    ),
    chat="[INST] {instruction} [/INST]",
    chat_with_system="[INST] {system}\n\n{instruction} [/INST]",
    markers=("[INST]", "[/INST]"),
)
