"""Prompt Erasing data: a strategy for each kind of task, and a teacher's answers by it."""
