"""What makes a question worth training on, beyond being well formed."""
