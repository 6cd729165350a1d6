"""Instruction and chat templates: how a prompt is written and where an answer ends."""
